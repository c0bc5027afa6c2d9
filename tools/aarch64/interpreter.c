// What the kernel starts for an aarch64 program (binfmt_misc, flag P): the emulator, with the folder of that machine's
// C library, which is an argument of the emulator and so belongs to no environment that a test starts programs with.
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv) {
  if (argc < 3) return 127;
  // argv: this program, the file, the name that the file was called by, its arguments.
  char **args = calloc(argc + 4, sizeof *args);
  if (!args) return 127;
  int n = 0;
  args[n++] = EMULATOR;
  args[n++] = "-L";
  args[n++] = LIBRARIES;
  args[n++] = "-0";
  args[n++] = argv[2];
  args[n++] = argv[1];
  for (int i = 3; i < argc; i++) args[n++] = argv[i];
  execv(EMULATOR, args);
  return 127;
}

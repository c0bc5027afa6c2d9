/**
 * The line between a process and its parent: one end of a socketpair(2), which
 * the process has as a descriptor from its start. There is no path to it, so
 * nothing is written to a disk and nobody else can connect.
 */

import { F_DUPFD_CLOEXEC, SO_TYPE, SOCK_SEQPACKET } from "../../internal/constants.ts";
import { Descriptor } from "../../internal/descriptor.ts";
import { libc } from "../../internal/libc.ts";
import { getSocketStruct } from "../../internal/socket.ts";
import { syscall } from "../../internal/syscall.ts";
import { readVariable } from "../../internal/environment.ts";
import { PARENT_FD, PARENT_VARIABLE } from "../../internal/parent_channel.ts";
import { UnixSocket } from "../message/unix_socket.ts";

/**
 * Takes over the socket that this process was started with.
 *
 * A variable of the environment can come from an older ancestor, and the number can be another file's by now. So the
 * socket is used only if the kernel says that the parent of this process has made it (`SO_PEERCRED` of unix(7)).
 *
 * @returns `undefined` if there is none.
 * @throws {SyscallError} If the number that the environment names is no such socket.
 */
export function takeParentSocket(): UnixSocket | undefined {
  if (readVariable(PARENT_VARIABLE) !== `${PARENT_FD}`) return undefined;
  const copy = new Descriptor(syscall("fcntl", PARENT_FD, F_DUPFD_CLOEXEC, 0));
  try {
    const type = new Int32Array(1);
    getSocketStruct(copy.fd, SO_TYPE, new Uint8Array(type.buffer));
    if (type[0] !== SOCK_SEQPACKET) return undefined;
    const socket = new UnixSocket(copy.detach(), "the parent");
    const { pid, uid } = socket.peer;
    if (pid !== libc.getppid() || uid !== libc.getuid()) {
      socket.close();
      return undefined;
    }
    // Nobody takes it a second time.
    new Descriptor(PARENT_FD).close();
    return socket;
  } finally {
    copy.close();
  }
}

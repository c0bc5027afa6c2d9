/** Shows that something happens: a bar on a terminal, lines elsewhere. */

// @ts-types="npm:@types/cli-progress@^3"
import { Presets, SingleBar } from "cli-progress";

/** Progress on standard error; the table goes to standard output. */
export interface Progress extends Disposable {
  step(text: string): void;
}

/** Begins `total` steps. */
export function progress(total: number): Progress {
  return Deno.stderr.isTerminal() ? bar(total) : lines(total);
}

function lines(total: number): Progress {
  let done = 0;
  return {
    step(text) {
      console.error(`[${++done}/${total}] ${text}`);
    },
    [Symbol.dispose]() {},
  };
}

function bar(total: number): Progress {
  const bar = new SingleBar({
    format: "{bar} {value}/{total} {text}",
    hideCursor: true,
    clearOnComplete: true,
  }, Presets.shades_classic);
  bar.start(total, 0, { text: "" });
  let done = 0;
  return {
    step(text) {
      bar.update(done++, { text });
    },
    [Symbol.dispose]() {
      bar.stop();
    },
  };
}

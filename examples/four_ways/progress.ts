/** Shows what is being measured: a bar for each way on a terminal, a line elsewhere. */

// @ts-types="npm:@types/cli-progress@^3"
import { MultiBar, Presets } from "cli-progress";

/** Progress of one way. */
export interface Progress {
  /** It is so far, from 0 to 1. */
  step(part: number, text: string): void;
  /** It is done. */
  end(text: string): void;
}

/** Progress of all ways, on standard error; the table goes to standard output. */
export interface AllProgress extends Disposable {
  begin(title: string): Progress;
}

const WIDTH = 20;

/** Begins to show the progress of so many ways. */
export function showProgress(ways: number): AllProgress {
  return Deno.stderr.isTerminal() ? bars() : lines(ways);
}

function lines(ways: number): AllProgress {
  let begun = 0;
  return {
    begin(title) {
      const head = `[${++begun}/${ways}] ${title}`;
      return { step() {}, end: (text) => console.error(`${head}: ${text}`) };
    },
    [Symbol.dispose]() {},
  };
}

function bars(): AllProgress {
  const all = new MultiBar({
    format: "{title} {bar} {text}",
    barsize: 24,
    hideCursor: true,
    linewrap: false,
    emptyOnZero: true,
    // Ctrl-C is the program's own to handle.
    gracefulExit: false,
  }, Presets.shades_classic);
  return {
    begin(title) {
      const bar = all.create(1, 0, { title: title.padEnd(WIDTH), text: "" });
      return {
        step: (part, text) => bar.update(part, { text }),
        end(text) {
          bar.update(1, { text });
          bar.stop();
        },
      };
    },
    [Symbol.dispose]() {
      all.stop();
    },
  };
}

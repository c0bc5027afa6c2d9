/** Shows what is being measured: a bar for each way on a terminal, a line elsewhere. */

// @ts-types="npm:@types/cli-progress@^3"
import { MultiBar, Presets } from "cli-progress";
import type { Estimate } from "./estimate.ts";

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

/** Characters of a title, and of a bar on a narrow terminal and on others. */
const TITLE = 20;
const BARS = [16, 24] as const;
const NARROW = 100;

/** How often the time that is left is shown anew, in ms. */
const INTERVAL = 1_000;

/** Begins to show the progress of so many ways. */
export function showProgress(ways: number, estimate: Estimate): AllProgress {
  return Deno.stderr.isTerminal() ? bars(estimate) : lines(ways, estimate);
}

function lines(ways: number, estimate: Estimate): AllProgress {
  let begun = 0;
  console.error(`${ways} ${ways === 1 ? "way" : "ways"}, about ${inWords(estimate.left())}`);
  return {
    begin(title) {
      const head = `[${++begun}/${ways}] ${title}`;
      return {
        step() {},
        end(text) {
          estimate.next();
          console.error(`${head}: ${text}`);
        },
      };
    },
    [Symbol.dispose]() {},
  };
}

function bars(estimate: Estimate): AllProgress {
  const [narrow, wide] = BARS;
  const all = new MultiBar({
    format: "{title} {bar} {text}",
    barsize: Deno.consoleSize().columns < NARROW ? narrow : wide,
    hideCursor: true,
    linewrap: false,
    emptyOnZero: true,
    // Ctrl-C is the program's own to handle.
    gracefulExit: false,
  }, Presets.shades_classic);
  const whole = all.create(1, 0, { title: "all of them".padEnd(TITLE), text: "" });
  const show = () => whole.update(estimate.part(), { text: `about ${inWords(estimate.left())} left` });
  show();
  const timer = setInterval(show, INTERVAL);
  return {
    begin(title) {
      const bar = all.create(1, 0, { title: title.padEnd(TITLE), text: "" });
      return {
        step: (part, text) => bar.update(part, { text }),
        end(text) {
          estimate.next();
          bar.update(1, { text });
          bar.stop();
        },
      };
    },
    [Symbol.dispose]() {
      clearInterval(timer);
      whole.update(1, { text: `${inWords(estimate.elapsed())}` });
      all.stop();
    },
  };
}

/** A time that is estimated: no seconds where there are minutes. */
function inWords(ms: number): string {
  const seconds = Math.max(Math.round(ms / 1000), 1);
  return seconds < 90 ? `${seconds} s` : `${Math.round(seconds / 60)} min`;
}

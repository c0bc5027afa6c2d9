/**
 * Writes the figures in README from what was measured: `bench/results/four-ways.json`.
 * A test fails when they do not agree.
 *
 *     deno task example:four-ways --json bench/results/four-ways.json --chart bench/results/four-ways.svg
 *     deno task figures
 */

import { fileURLToPath } from "node:url";

/** What the example of the four ways writes. */
export interface FourWays {
  readonly date: string;
  /** What it ran on, in one line. */
  readonly machine: string;
  readonly clients: number;
  /** ms for each way. */
  readonly duration: number;
  readonly rows: readonly {
    readonly title: string;
    /** Latencies are µs, memory bytes for a connection, CPU µs for an echo. */
    readonly figures?: {
      readonly open: number;
      /** Clients that got an answer in the measured time, which is `measured` µs. */
      readonly answered?: number;
      readonly measured?: number;
      readonly rate: number;
      readonly p50: number;
      readonly p99: number;
      readonly memory?: number;
      readonly cpu?: number;
      readonly ranOut: string;
      readonly lost: number;
    };
    /** Why there are none. */
    readonly missing?: string;
  }[];
}

function decimal(value: number | undefined, digits = 0): string {
  return value?.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }) ?? "–";
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map((_, i) => i === 0 ? "---" : "--:")), ...rows.map(line)].join("\n");
}

/** Of a client that waits longer than it was watched, no more is known. */
function wait(us: number, measured = Infinity): string {
  return us >= measured ? `> ${decimal(measured / 1000)}` : decimal(us / 1000, 2);
}

/** The ways to serve many clients, side by side. */
export function fourWays(results: FourWays | undefined): string {
  if (results === undefined) return "Not measured yet; `deno task example:four-ways` measures your machine.";
  // Runs of before do not tell who was answered, and their times are those of echoes.
  const tells = results.rows.some(({ figures }) => figures?.answered !== undefined);
  const columns = ["echoes/s", "p50 ms", "p99 ms", "KiB/conn.", "CPU µs/echo"];
  const head = ["way", "connections", ...(tells ? ["answered"] : []), ...columns, "ran out first"];
  const rows = results.rows.map(({ title, figures, missing }) => {
    if (figures === undefined) return [title, ...head.slice(2).map(() => "–"), missing ?? "not measured"];
    const { open, answered, rate, p50, p99, measured, memory, cpu, lost } = figures;
    const ranOut = lost > 0 ? `${figures.ranOut}; ${decimal(lost)} clients lost meanwhile` : figures.ranOut;
    const kib = memory === undefined ? undefined : memory / 1024;
    const times = [wait(p50, measured), wait(p99, measured)];
    return [
      title,
      decimal(open),
      ...(tells ? [decimal(answered)] : []),
      decimal(rate),
      ...times,
      decimal(kib, 1),
      decimal(cpu, 1),
      ranOut,
    ];
  });
  return `![Echoes per second of each way](bench/results/four-ways.svg)

${table(head, rows)}

${decimal(results.clients)} clients, each with one echo of 64 bytes under way, ${
    results.duration / 1000
  } s for each way;
${results.machine}, ${results.date.slice(0, 10)}. \`deno task example:four-ways\` measures your machine.${
    tells ? " [What the columns say](docs/four-ways.md#14-c10k)." : ""
  }`;
}

/** README with its figures replaced: what stands between `<!-- name:begin -->` and `<!-- name:end -->`. */
export function withFigures(readme: string, figures: ReadonlyMap<string, string>): string {
  for (const [name, text] of figures) {
    const block = new RegExp(`(<!-- ${name}:begin -->\n)[^]*?(<!-- ${name}:end -->)`);
    if (!block.test(readme)) throw new Error(`README.md has no place for ${name}`);
    readme = readme.replace(block, (_, begin: string, end: string) => `${begin}\n${text}\n\n${end}`);
  }
  return readme;
}

/** A file in `bench/results`; `undefined` if it was not measured. */
function read<T>(name: string): T | undefined {
  try {
    return JSON.parse(Deno.readTextFileSync(new URL(`../bench/results/${name}`, import.meta.url)));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** All figures that README shows, by the name of their place. */
export function allFigures(): ReadonlyMap<string, string> {
  return new Map([["four-ways", fourWays(read<FourWays>("four-ways.json"))]]);
}

if (import.meta.main) {
  const readme = new URL("../README.md", import.meta.url);
  await Deno.writeTextFile(readme, withFigures(await Deno.readTextFile(readme), allFigures()));
  const { code } = await new Deno.Command(Deno.execPath(), { args: ["fmt", "--quiet", fileURLToPath(readme)] })
    .output();
  Deno.exitCode = code;
}

/** The works that servers are measured at. */

/** One work: a number of connections and what they do. */
export interface Work {
  readonly name: string;
  readonly title: string;
  readonly kind: "echo" | "churn" | "idle";
  readonly connections: number;
  readonly size: number;
}

function echo(connections: number, size: number, name: string): Work {
  const bytes = size < 1024 ? `${size} B` : `${size / 1024} KiB`;
  const title = `${connections} × ${bytes}`;
  return { name, title, kind: "echo", connections, size };
}

export const WORKS: readonly Work[] = [
  echo(1, 64, "1x64"),
  echo(4, 64, "4x64"),
  echo(16, 64, "16x64"),
  echo(100, 64, "100x64"),
  echo(1000, 64, "1000x64"),
  echo(5000, 64, "5000x64"),
  echo(50, 16 * 1024, "50x16k"),
  { name: "churn", title: "churn", kind: "churn", connections: 64, size: 64 },
  {
    name: "idle",
    title: "10000 idle",
    kind: "idle",
    connections: 10_000,
    size: 64,
  },
];

/** The works of `--quick`. */
export const QUICK_WORKS: readonly string[] = ["100x64", "50x16k", "churn"];

/** What `tools/aarch64.ts` and the preloaded `select.ts` say to each other, in files. */

/** For one run of some test files. */
export interface Plan {
  /** The file that gets a line for each test that is declared. */
  readonly log: string;
  /** The names of the tests that are to run, by the URL of their file. */
  readonly run: Readonly<Record<string, readonly string[]>>;
}

/** A test that a file has declared. */
export interface Declared {
  /** The URL of the test file. */
  readonly file: string;
  readonly name: string;
  /** Whether the file itself leaves it out on this machine. */
  readonly ignore: boolean;
}

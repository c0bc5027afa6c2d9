/** What `tools/aarch64.ts` and the preloaded `select.ts` say to each other, in files. */

/** For one run of a test file. */
export interface Plan {
  /** The file that gets a line for each test that is declared. */
  readonly log: string;
  /** The names of the tests that are to run. */
  readonly run: readonly string[];
}

/** A test that a file has declared. */
export interface Declared {
  /** The URL of the test file. */
  readonly file: string;
  readonly name: string;
  /** Whether the file itself leaves it out on this machine. */
  readonly ignore: boolean;
}

/** The examples in documentation: blocks of code in comments and in Markdown. */

/** One block of code. */
export interface Example {
  /** The file, and the line that its first line of code stands in. */
  readonly path: string;
  readonly line: number;
  /** What stands above it: the title of the `@example`, or the heading. */
  readonly title: string;
  readonly code: string;
  /** The program's file, if its first line is a comment that says so: `// deno run … echo.ts` or `// child.ts`. */
  readonly file: string | undefined;
  /** The flags of that command; `undefined` if it is no program by itself. */
  readonly flags: readonly string[] | undefined;
  /** Its section of a Markdown file says that it is for the native engine. */
  readonly isNative: boolean;
}

const FENCE = /^(\s*)```(\w*)\s*$/;

/**
 * Finds the TypeScript blocks of a file, in its order.
 *
 * @param path Its name: of a `.md` all blocks are taken, of others those in documentation comments.
 * @param text Its content.
 * @throws {Error} If a block is not closed, or has attributes: an example that is not run is none.
 */
export function examplesIn(path: string, text: string): Example[] {
  const isMarkdown = path.endsWith(".md");
  const examples: Example[] = [];
  let title = "";
  let isNative = false;
  let block: { language: string; line: number; lines: string[]; indent: string } | undefined;
  for (const [i, raw] of text.split("\n").entries()) {
    const comment = /^\s*\* ?(.*)$/.exec(raw)?.[1];
    if (!isMarkdown && comment === undefined) continue;
    const line = isMarkdown ? raw : comment ?? "";
    if (block === undefined) {
      if (isMarkdown) isNative = line.includes("**native**") || (isNative && !line.startsWith("#"));
      title = (isMarkdown ? /^#+ (.*)$/ : /^@example (.*)$/).exec(line)?.[1] ?? title;
      const fence = FENCE.exec(line);
      if (fence !== null) block = { language: fence[2] ?? "", line: i + 2, lines: [], indent: fence[1] ?? "" };
      else if (line.trimStart().startsWith("```")) throw new Error(`${path}:${i + 1}: a block with attributes`);
    } else if (line.trim() !== "```") {
      block.lines.push(line.startsWith(block.indent) ? line.slice(block.indent.length) : line);
    } else {
      if (block.language === "ts") {
        const [, flags, file] = /^\/\/ (?:deno run (.*) )?(\w+\.ts)$/.exec(block.lines[0] ?? "") ?? [];
        const code = block.lines.join("\n");
        examples.push({ path, line: block.line, title, code, file, flags: flags?.split(" "), isNative });
      }
      block = undefined;
    }
  }
  if (block !== undefined) throw new Error(`${path}:${block.line}: a block that is not closed`);
  return examples;
}

/** Bytes as text of one character a byte, so that nothing is lost on the way. */

import type { Buffer } from "node:buffer";

/** Up to here characters one by one cost less than a call to the runtime. */
const FEW = 20;
const codes: number[] = [];

/** Bytes from `start` to `end` as a string. */
export function latin1(bytes: Buffer, start: number, end: number): string {
  const length = end - start;
  if (length > FEW) return bytes.toString("latin1", start, end);
  // Setting the length would cost more than all the rest.
  while (codes.length > length) codes.pop();
  for (let i = 0; i < length; i++) codes[i] = bytes[start + i] as number;
  return String.fromCharCode.apply(null, codes);
}

/** The range of 64-bit integers. */
export const [LEAST, MOST] = [-(2n ** 63n), 2n ** 63n - 1n];

/** A 64-bit integer in the one way in which it can be written, `undefined` for anything else. */
export function parseInteger(text: string): bigint | undefined {
  if (!/^(0|-?[1-9]\d{0,18})$/.test(text)) return undefined;
  const number = BigInt(text);
  return number < LEAST || number > MOST ? undefined : number;
}

/**
 * A command's name as a number that no other name has, whatever the case: five
 * bits a letter. 0 if it is no name.
 */
export function nameCode(bytes: ArrayLike<number>, start = 0, end = bytes.length): number {
  let code = 0;
  for (let i = start; i < end; i++) {
    const letter = ((bytes[i] as number) | 32) - 96;
    if (letter < 1 || letter > 26) return 0;
    code = 32 * code + letter;
  }
  return code;
}

const SPACES = /[ \t\n\v\f\r]*/y;
/** A word of a typed line: plain characters, and perhaps a quoted part, with which it ends. */
const WORD = /[^ \t\n\r"']*(?:(?:"(?:\\[^]|[^"\\])*"|'(?:\\'|\\(?!')|[^'\\])*')(?=[ \t\n\v\f\r]|$))?/y;
const QUOTED = /"((?:\\[^]|[^"\\])*)"|'((?:\\'|\\(?!')|[^'\\])*)'/g;
const ESCAPES: Record<string, string> = { n: "\n", r: "\r", t: "\t", b: "\b", a: "\x07" };

/** Splits a typed line into words as Redis does; `undefined` if quotes do not match. */
export function splitLine(line: string): string[] | undefined {
  const words: string[] = [];
  const [text = ""] = line.split("\0", 1);
  for (let at = 0;;) {
    SPACES.lastIndex = at;
    SPACES.exec(text);
    if ((at = SPACES.lastIndex) === text.length) return words;
    WORD.lastIndex = at;
    const word = WORD.exec(text)?.[0] ?? "";
    at = WORD.lastIndex;
    if (word === "" || text[at] === '"' || text[at] === "'") return undefined;
    words.push(
      word.replace(
        QUOTED,
        (_, double?: string, single?: string) =>
          double === undefined ? (single ?? "").replaceAll("\\'", "'") : double.replace(
            /\\(?:x([0-9a-fA-F]{2})|([^]))/g,
            (_, hex?: string, letter = "") =>
              hex === undefined ? ESCAPES[letter] ?? letter : String.fromCharCode(parseInt(hex, 16)),
          ),
      ),
    );
  }
}

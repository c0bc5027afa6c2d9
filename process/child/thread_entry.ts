/**
 * The first module of a thread, which imports the one that it is started for.
 *
 * A thread of `node:worker_threads` ends when nothing keeps its event loop alive. A Worker of the Web does not: it has
 * to close itself, and must not do so before its module has been evaluated. So the entry tells the thread which it is,
 * and when that has happened.
 */

/** What a thread knows from its entry. */
export interface ThreadEntry {
  /** The thread ends when nothing keeps its event loop alive. */
  readonly endsAlone: boolean;
  /** Resolves once its module has been evaluated; never if that fails, which ends the thread. */
  readonly evaluated: Promise<void>;
}

const KEY = Symbol.for("@c10k/sockets: the entry of this thread");

/** The text that leaves an entry for {@linkcode threadEntry}, and that which resolves its promise. */
const AT = `globalThis[Symbol.for(${JSON.stringify(KEY.description)})]`;
const leave = (endsAlone: boolean) =>
  `${AT} = { endsAlone: ${endsAlone} }; ${AT}.evaluated = new Promise((resolve) => ${AT}.resolve = resolve);`;

/** A module of this text. */
function dataUrl(text: string): URL {
  return new URL(`data:text/javascript,${encodeURIComponent(text)}`);
}

/**
 * The entry of a thread of `node:worker_threads`.
 *
 * Deno keeps two descriptors of a Worker that ends while its main module waits (`for await` at its top level does), so
 * the main module does not wait. It restores what the Web's Workers have and Node's lack.
 */
export function nodeEntry(module: URL): URL {
  const load = `import(${JSON.stringify(module.href)}).then(${AT}.resolve);`;
  return dataUrl(`globalThis.self ??= globalThis; ${leave(true)} ${load}`);
}

/**
 * The entry of a Worker of the Web. Its imports are static: these need the permissions of the program that starts it,
 * and a dynamic one would need the Worker's own.
 */
export function webEntry(module: URL): URL {
  const first = dataUrl(leave(false));
  return dataUrl(`import ${JSON.stringify(first.href)}; import ${JSON.stringify(module.href)}; ${AT}.resolve();`);
}

/** What the entry of this thread has left; a Worker that something else has started has no such entry. */
export function threadEntry(): ThreadEntry {
  const { [KEY]: entry } = globalThis as { [KEY]?: ThreadEntry };
  return entry ?? { endsAlone: false, evaluated: Promise.resolve() };
}

/**
 * The first module of a thread, which imports the one that it is started for.
 *
 * A thread of `node:worker_threads` ends when nothing keeps its event loop alive. A Worker of the Web does not: it has
 * to close itself, and must not do so before its module has been evaluated. So its entry says when that has happened.
 */

const EVALUATED = Symbol.for("@c10k/sockets: the module of this thread has been evaluated");

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
  return dataUrl(`globalThis.self ??= globalThis; import(${JSON.stringify(module.href)});`);
}

/**
 * The entry of a Worker of the Web. Its imports are static: these need the permissions of the program that starts it,
 * and a dynamic one would need the Worker's own.
 */
export function webEntry(module: URL): URL {
  const key = `globalThis[Symbol.for(${JSON.stringify(EVALUATED.description)})]`;
  const first = dataUrl(`${key} = Promise.withResolvers();`);
  return dataUrl(`import ${JSON.stringify(first.href)}; import ${JSON.stringify(module.href)}; ${key}.resolve();`);
}

/** In a Worker of the Web, resolves once its module has been evaluated; `undefined` in other threads. */
export function moduleEvaluated(): Promise<void> | undefined {
  return (globalThis as { [EVALUATED]?: PromiseWithResolvers<void> })[EVALUATED]?.promise;
}

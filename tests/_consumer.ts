/** A project elsewhere that uses a clone of this library beside it, as README says. */

import { ROOT } from "./_util.ts";

/** What a clone holds of which programs can use anything. */
const CLONE = ["mod.ts", "deno.json", "tcp", "udp", "mux", "poll", "process", "internal", "tools/std"];

/** Runs something in a folder where nothing is but a `deno.json` that links the clone in `../sockets`. */
export async function asConsumer(fn: (folder: string) => Promise<void>): Promise<void> {
  const parent = await Deno.realPath(await Deno.makeTempDir());
  const folder = `${parent}/project`;
  try {
    await Deno.mkdir(folder);
    for (const path of CLONE) await copy(new URL(path, ROOT), `${parent}/sockets/${path}`);
    // What the documents import beside it comes from JSR, for who can reach that.
    const links = ["../sockets", "../sockets/tools/std/assert"];
    await Deno.writeTextFile(`${folder}/deno.json`, JSON.stringify({ links }));
    await fn(folder);
  } finally {
    await Deno.remove(parent, { recursive: true });
  }
}

async function copy(from: URL, to: string): Promise<void> {
  if ((await Deno.stat(from)).isFile) {
    await Deno.mkdir(to.slice(0, to.lastIndexOf("/")), { recursive: true });
    return await Deno.copyFile(from, to);
  }
  for await (const { name } of Deno.readDir(from)) {
    await copy(new URL(`${from.pathname}/${name}`, from), `${to}/${name}`);
  }
}

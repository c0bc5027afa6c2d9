/**
 * A program with children that end with it: one waits for messages, one never returns to its event loop, one never
 * calls `parent()`, and one has no permissions. It prints their process numbers once they are up, and waits.
 */

import { type Child, type ChildPermissions, spawnProcess } from "@c10k/sockets/process";

const source = (text: string) =>
  `data:text/javascript,${
    encodeURIComponent(`import { parent } from "${import.meta.resolve("@c10k/sockets/process")}";\n${text}`)
  }`;

const talking = [
  spawnProcess(source(`await parent().send("up"); for await (const _ of parent().messages());`)),
  spawnProcess(source(`await parent().send("up"); while (true);`)),
];
for (const child of talking) await child.messages().next();

/** A child that never talks, up once it has connected. */
async function silent(permissions: "inherit" | ChildPermissions): Promise<Child> {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  const text = `await Deno.connect({ port: ${port} }); setInterval(() => {}, 1000);`;
  const child = spawnProcess(`data:text/javascript,${encodeURIComponent(text)}`, { permissions });
  await listener.accept();
  return child;
}

const children = [...talking, await silent("inherit"), await silent({ net: ["127.0.0.1"] })];
console.log(children.map(({ pid }) => pid).join(" "));
setInterval(() => {}, 1000);

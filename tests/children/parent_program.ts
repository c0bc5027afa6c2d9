/**
 * A program with three children: one waits for messages, one never returns to its event loop, and one never calls
 * `parent()`. It prints their process numbers once they are up, and waits.
 */

import { spawnProcess } from "@c10k/sockets/process";

const source = (text: string) =>
  `data:text/javascript,${
    encodeURIComponent(`import { parent } from "${import.meta.resolve("@c10k/sockets/process")}";\n${text}`)
  }`;

const idle = spawnProcess(source(`
  await parent().send("up");
  for await (const _ of parent().messages());
`));
const busy = spawnProcess(source(`
  await parent().send("up");
  while (true);
`));
const folder = Deno.args[0] as string;
const alone = spawnProcess(source(`
  Deno.writeTextFileSync(${JSON.stringify(`${folder}/up`)}, "");
  setInterval(() => {}, 1000);
`));
for (const child of [idle, busy]) await child.messages().next();
for await (const _ of Deno.watchFs(folder)) break;
console.log([idle, busy, alone].map(({ pid }) => pid).join(" "));
setInterval(() => {}, 1000);

/** A web server of Deno's, behind a proxy: `http_server.ts NAME MILLISECONDS` says which requests it gets, and answers late. */

import { delay } from "@std/async";

const [name = "", milliseconds = "0"] = Deno.args;

Deno.serve({
  hostname: "127.0.0.1",
  port: 0,
  onListen: ({ port }) => console.log(`listening on 127.0.0.1:${port}`),
}, async (request) => {
  console.log(new URL(request.url).pathname);
  const body = await request.arrayBuffer();
  await delay(Number(milliseconds));
  return new Response(body.byteLength > 0 ? body : `${name}\n`);
});

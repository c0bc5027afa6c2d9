/** A child that answers each message with itself, and sends the sockets back that came with it. */

import { parent } from "@c10k/sockets/process";

for await (const { message, sockets, lost } of parent().messages()) {
  await parent().send({ message, lost, pid: Deno.pid }, { sockets });
}

/**
 * Clients that keep books, as a program. Arguments: how many, an order as
 * JSON, and `udp` for datagrams. Prints the totals as JSON.
 */

import { Books, type Order, udpBooks } from "./_books.ts";

const [count = "1", text = "{}", protocol = "tcp"] = Deno.args;
const order: Order = JSON.parse(text);
if (protocol === "udp") {
  console.log(JSON.stringify(await udpBooks(order)));
} else {
  const books = new Books();
  await books.serveAll(Number(count), order);
  console.log(JSON.stringify(books.totals()));
}

/**
 * The clients of `examples/four_ways.ts`, in a process of their own: each sends
 * 64 bytes, waits for the same 64 bytes, and sends the next. One thread drives
 * all of them, with a `Multiplexer`.
 */

import { Multiplexer } from "@c10k/sockets/mux";
import { parent } from "@c10k/sockets/process";
import { TcpConn } from "@c10k/sockets/tcp";
import { Client, SIZE } from "./client.ts";
import type { News, Order, Stop } from "./orders.ts";
import { waitsOf } from "./waits.ts";

/** Clients that are being opened at a time, at most: at first one, then one more for every four that were answered. */
const WIDTH = 256;
/** How long new clients may go without any answer, in ms, or four times the longest that one has taken. */
const PATIENCE = 2_000;
/** Descriptors to leave to Deno, which panics when it has none at all. */
const SPARE = 32;
/** How long what has begun may take when no more is wanted, in ms. */
const REST = 10_000;

const mux = new Multiplexer<Client>({ maxEvents: 1024 });
const clients = new Set<Client>();
const buffer = new Uint8Array(SIZE * 2);
const stopOpening = Promise.withResolvers<Stop>();
let isEnough = false;
let isAsking = false;
let isMeasuring = false;
let lost = 0;

async function tell(news: News): Promise<void> {
  await parent().send(news);
}

function serve(client: Client): void {
  let n: number | null | undefined;
  try {
    n = client.conn.tryRead(buffer);
  } catch {
    n = null; // reset
  }
  if (n === undefined) return;
  if (n === null) return end(client);
  if (!client.take(buffer.subarray(0, n))) return;
  if (!client.isOpen) return client.answered.resolve(client.isOpen = true);
  if (isMeasuring) {
    client.answers++;
    client.waited += performance.now() - client.sentAt;
  }
  if (isAsking && !client.ask()) end(client);
}

/** It was disconnected. */
function end(client: Client): void {
  if (client.isOpen) lost++;
  else stopOpening.resolve("closed");
  drop(client);
}

function drop(client: Client): void {
  clients.delete(client);
  client.conn.close();
  client.answered.resolve(false);
}

async function open({ port, clients: count, descriptors }: Extract<Order, { do: "open" }>): Promise<void> {
  let [started, opened, first, longest, last] = [0, 0, 0, 0, performance.now()];
  const lanes: Promise<void>[] = [];
  let stop: Stop = "enough";
  const lane = async (): Promise<void> => {
    while (started < count && !isEnough) {
      // Each has a descriptor, and the numbers go on from that of the first.
      if (first + started >= descriptors - SPARE) {
        stop = { code: "EMFILE" };
        return enough(REST);
      }
      const id = started++;
      const conn = await TcpConn.connect({ port });
      first ||= conn.fd ?? 0;
      const client = new Client(conn, id);
      clients.add(client);
      mux.register(conn, { readable: true }, client);
      if (!client.ask()) end(client);
      if (!await client.answered.promise) return;
      const now = performance.now();
      [opened, longest, last] = [opened + 1, Math.max(longest, now - last), now];
      if (lanes.length < Math.min(2 + opened / 4, WIDTH)) begin();
    }
  };
  const fail = (error: Error & { code?: string }) => stopOpening.resolve({ code: error.code ?? error.message });
  const begin = () => void lanes.push(lane().catch(fail));
  const openAll = async () => {
    begin();
    for (const lane of lanes) await lane; // they become more
    stopOpening.resolve(opened === count ? "all" : stop);
  };
  const watch = setInterval(() => {
    const patience = Math.max(PATIENCE, longest * 4);
    tell({ is: "opening", open: opened, silent: opened > 0 && performance.now() - last > patience });
  }, 100);
  openAll();
  stop = await stopOpening.promise;
  isEnough = true;
  clearInterval(watch);
  const unanswered = [...clients].filter(({ isOpen }) => !isOpen);
  await tell({ is: "opened", open: clients.size - unanswered.length, stop, waiting: unanswered.length });
  for (const client of unanswered) drop(client);
}

function enough(rest: number): void {
  isEnough = true;
  // Nothing is left to do for it when the last one has been answered before.
  Deno.unrefTimer(setTimeout(() => stopOpening.resolve("enough"), rest));
}

async function measure(duration: number): Promise<void> {
  isAsking = true;
  const all = [...clients];
  for (const client of all) if (!client.ask()) end(client);
  await new Promise((resolve) => setTimeout(resolve, duration / 4)); // warm up
  isMeasuring = true;
  const begun = performance.now();
  await tell({ is: "begun" });
  await new Promise((resolve) => setTimeout(resolve, duration));
  const measured = performance.now() - begun;
  const waits = waitsOf(all, measured);
  isMeasuring = isAsking = false;
  await tell({ is: "counted" });
  const isWaiting = () => [...clients].some((client) => client.isWaiting);
  const latest = performance.now() + REST;
  while (isWaiting() && performance.now() < latest) await new Promise((resolve) => setTimeout(resolve, 20));
  lost += [...clients].filter((client) => client.isWaiting).length;
  await tell({ is: "measured", ...waits, duration: measured, lost });
}

async function obey(): Promise<void> {
  for await (const { message } of parent().messages()) {
    const order = message as Order;
    if (order.do === "open") open(order);
    else if (order.do === "enough") enough(order.atOnce ? 0 : REST);
    else measure(order.duration);
  }
  mux.close();
}

obey();
try {
  for await (const events of mux) {
    for (const { data: client, readable, error } of events) if (readable || error) serve(client);
  }
} catch (error) {
  await tell({ is: "wrong", why: error instanceof Error ? error.message : String(error) });
}
for (const client of clients) client.conn.close();

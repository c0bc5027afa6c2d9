/** What kv can do: the commands, and how they answer as Redis does. */

import { config, describe, info } from "./admin.ts";
import { HangUp, Refusal } from "./errors.ts";
import type { Requests } from "./requests.ts";
import { type Command, type Service, wrongCount } from "./service.ts";
import { type Store, StoreFull, type Value } from "./store.ts";
import { LEAST, MOST, nameCode, parseInteger } from "./text.ts";

const INTEGER = "ERR value is not an integer or out of range";
const SYNTAX = "ERR syntax error";

function integer(value: Value): bigint {
  const number = typeof value === "string" ? parseInteger(value) : undefined;
  if (number === undefined) throw new Refusal(INTEGER);
  return number;
}

/** A number of seconds or milliseconds from now as a deadline. */
function deadline(time: bigint, unit: number, now: number, name: string): number {
  const after = time * BigInt(unit);
  if (after < LEAST || after > MOST - BigInt(now)) throw new Refusal(`ERR invalid expire time in '${name}' command`);
  return now + Number(after);
}

function set(request: Requests, { store, replies }: Service): void {
  const key = request.text(1);
  let [condition, unit, time] = ["", 0, 0];
  for (let i = 3; i < request.count; i++) {
    const option = request.text(i).toUpperCase();
    if ((option === "NX" || option === "XX") && (condition === "" || condition === option)) condition = option;
    else if (option === "EX" && unit !== 1 && i + 1 < request.count) [unit, time] = [1000, ++i];
    else if (option === "PX" && unit !== 1000 && i + 1 < request.count) [unit, time] = [1, ++i];
    else throw new Refusal(SYNTAX);
  }
  let end: number | undefined;
  if (unit > 0) {
    const after = integer(request.text(time));
    if (after <= 0n) throw new Refusal("ERR invalid expire time in 'set' command");
    end = deadline(after, unit, store.now, "set");
  }
  if (condition !== "" && store.has(key) !== (condition === "XX")) return replies.bulk(undefined);
  store.set(key, request.value(2), end);
  replies.raw("+OK\r\n");
}

function increment(by: bigint): Command["run"] {
  return (request, { store, replies }) => {
    const key = request.text(1);
    const number = integer(store.get(key) ?? "0") + by;
    if (number < LEAST || number > MOST) throw new Refusal("ERR increment or decrement would overflow");
    store.update(key, String(number));
    replies.integer(number);
  };
}

/** Counts the keys for which something is so. */
function count(test: (store: Store, key: string) => boolean): Command["run"] {
  return (request, { store, replies }) => {
    let sum = 0;
    for (let i = 1; i < request.count; i++) if (test(store, request.text(i))) sum++;
    replies.integer(sum);
  };
}

const COMMANDS = new Map<number, Command>();

function add(name: string, arity: number, run: Command["run"]): void {
  COMMANDS.set(nameCode(new TextEncoder().encode(name)), { name, arity, run });
}

add("command", -1, describe(COMMANDS));
add("config", -2, config);
add("dbsize", 1, (_, { store, replies }) => replies.integer(store.size));
add("decr", 2, increment(-1n));
add("del", -2, count((store, key) => store.delete(key)));
add("echo", 2, (request, { replies }) => replies.bulk(request.value(1)));
add("exists", -2, count((store, key) => store.has(key)));
add("expire", -3, (request, { store, replies }) => {
  if (request.count > 3) throw new Refusal(`ERR Unsupported option ${request.text(3)}`);
  const end = deadline(integer(request.text(2)), 1000, store.now, "expire");
  replies.integer(store.expire(request.text(1), end) ? 1 : 0);
});
add("flushdb", -1, (request, { store, replies }) => {
  if (request.count > 2 || (request.count === 2 && !/^(a?sync)$/i.test(request.text(1)))) throw new Refusal(SYNTAX);
  store.clear();
  replies.raw("+OK\r\n");
});
add("get", 2, (request, { store, replies }) => replies.bulk(store.get(request.text(1))));
// Clients that ask for RESP3 go back to RESP2.
add("hello", -1, (_, { replies }) => replies.error("NOPROTO unsupported protocol version"));
add("incr", 2, increment(1n));
add("info", -1, info);
add("mget", -2, (request, { store, replies }) => {
  replies.array(request.count - 1);
  for (let i = 1; i < request.count; i++) replies.bulk(store.get(request.text(i)));
});
add("mset", -3, (request, { store, replies }) => {
  if (request.count % 2 === 0) throw wrongCount("mset");
  for (let i = 1; i < request.count; i += 2) store.set(request.text(i), request.value(i + 1));
  replies.raw("+OK\r\n");
});
add("ping", -1, (request, { replies }) => {
  if (request.count > 2) throw wrongCount("ping");
  if (request.count === 1) replies.raw("+PONG\r\n");
  else replies.bulk(request.value(1));
});
add("set", -3, set);
add("ttl", 2, (request, { store, replies }) => {
  const key = request.text(1);
  const end = store.has(key) ? store.deadline(key) ?? -1 : -2;
  replies.integer(end < 0 ? end : Math.floor((end - store.now + 500) / 1000));
});

function unknown(request: Requests): Error {
  // A web page that makes a browser send requests here: the lines of HTTP would be taken for commands.
  if (/^(post|host:)$/i.test(quoted(request, 0, 6))) return new HangUp("it speaks HTTP");
  let args = "";
  for (let i = 1; i < request.count && args.length < 128; i++) args += `'${quoted(request, i, 128 - args.length)}' `;
  return new Refusal(`ERR unknown command '${quoted(request, 0, 128)}', with args beginning with: ${args}`);
}

/** The beginning of a word, up to a NUL, as C programs print it. */
function quoted(request: Requests, index: number, most: number): string {
  return request.text(index).slice(0, most).split("\0", 1)[0] as string;
}

/** Does what is asked for, and replies. */
export function execute(request: Requests, service: Service): void {
  try {
    const command = COMMANDS.get(request.name);
    if (command === undefined) throw unknown(request);
    const { name, arity } = command;
    if (arity < 0 ? request.count < -arity : request.count !== arity) throw wrongCount(name);
    command.run(request, service);
  } catch (error) {
    if (error instanceof StoreFull) service.replies.error("OOM command not allowed when used memory > 'maxmemory'.");
    else if (error instanceof Refusal) service.replies.error(error.message);
    else throw error;
  }
}

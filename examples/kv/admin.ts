/** What clients and people ask about kv itself. */

import { Refusal } from "./errors.ts";
import type { Requests } from "./requests.ts";
import { type Command, type Service, wrongCount } from "./service.ts";

/** What CONFIG GET tells: nothing is written to disk. */
const CONFIG: Record<string, string> = { appendonly: "no", databases: "1", maxmemory: "0", save: "" };

/** CONFIG GET. */
export function config(request: Requests, { replies }: Service): void {
  const action = request.text(1);
  if (action.toUpperCase() !== "GET") throw new Refusal(`ERR unknown subcommand '${action}'. Try CONFIG HELP.`);
  if (request.count === 2) throw wrongCount("config|get");
  const found = new Map<string, string>();
  for (let i = 2; i < request.count; i++) {
    const asked = request.text(i);
    const pattern = asked.replace(/[^\w*?]/g, "\\$&").replaceAll("*", ".*").replaceAll("?", ".");
    const wanted = new RegExp(`^${pattern}$`, "i");
    for (const [name, value] of Object.entries(CONFIG)) {
      if (wanted.test(name)) found.set(/[*?]/.test(asked) ? name : asked, value);
    }
  }
  replies.array(2 * found.size);
  for (const [name, value] of found) {
    replies.bulk(name);
    replies.bulk(value);
  }
}

/** COMMAND, as far as clients need it to call the others. */
export function describe(commands: ReadonlyMap<unknown, Command>): Command["run"] {
  return (request, { replies }) => {
    const action = request.count > 1 ? request.text(1) : "";
    switch (action.toUpperCase()) {
      case "":
        replies.array(commands.size);
        for (const { name, arity } of commands.values()) {
          replies.array(6);
          replies.bulk(name);
          replies.integer(arity);
          replies.array(0); // flags, and where the keys are: first, last, step
          for (let i = 0; i < 3; i++) replies.integer(0);
        }
        return;
      case "COUNT":
        return replies.integer(commands.size);
      case "DOCS": // there are none
        return replies.array(0);
      default:
        throw new Refusal(`ERR unknown subcommand '${action}'. Try COMMAND HELP.`);
    }
  };
}

/** INFO, of all sections or some. */
export function info(request: Requests, service: Service): void {
  const asked = Array.from({ length: request.count - 1 }, (_, i) => request.text(i + 1).toLowerCase());
  const isAll = asked.length === 0 || asked.some((name) => /^(all|default|everything)$/.test(name));
  const sections = Object.entries(service.info())
    .filter(([name]) => isAll || asked.includes(name.toLowerCase()))
    .map(([name, facts]) => [`# ${name}`, ...Object.entries(facts).map(([key, fact]) => `${key}:${fact}`), ""]);
  service.replies.bulk(sections.map((lines) => lines.join("\r\n")).join("\r\n"));
}

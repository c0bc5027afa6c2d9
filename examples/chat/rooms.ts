/** What the bytes of `chat.ts` mean: lines, rooms, names and commands, and nothing of sockets. */

const HELP = "* /join ROOM, /nick NAME, /who, /rooms, /quit; anything else is said to the room";

/** How many names an answer lists. */
const MOST_NAMES = 50;
/** Longest line in bytes; what is longer is said in pieces. */
const MAX_LINE = 1024;
const NEWLINE = 10;

/** Cuts what arrives into lines, however it comes in pieces. */
export class Lines {
  #line: number[] = [];

  /** Returns the lines that have their end in `bytes`, or with it, trimmed and without empty ones. */
  *take(bytes: Uint8Array, isLast: boolean): Iterable<string> {
    for (const byte of isLast ? [...bytes, NEWLINE] : bytes) {
      if (byte !== NEWLINE) this.#line.push(byte);
      if (byte !== NEWLINE && this.#line.length < MAX_LINE) continue;
      // Without control characters, which would reach the others' terminals.
      const text = new TextDecoder().decode(new Uint8Array(this.#line)).replace(/\p{Cc}/gu, "").trim();
      this.#line = [];
      if (text !== "") yield text;
    }
  }
}

/** Somebody who is connected. */
export interface Member {
  nick: string;
  room: string;
  /** Sends a line, which others may get as well. */
  send(line: Uint8Array): void;
  /** Sends a last line and ends the connection. */
  dismiss(notice: string): void;
}

/** Sends a line to all of `members`. */
export function tell(members: Iterable<Member>, text: string): void {
  const line = new TextEncoder().encode(text + "\n");
  for (const member of members) member.send(line);
}

/** Who is where. */
export class Rooms {
  /** Those with somebody in them. */
  readonly #rooms = new Map<string, Set<Member>>();
  readonly #nicks = new Set<string>();
  #guests = 0;

  /** Takes in somebody new. */
  welcome(member: Member): void {
    do member.nick = `guest${++this.#guests}`; while (this.#nicks.has(member.nick));
    this.#nicks.add(member.nick);
    tell([member], HELP);
    this.#enter(member, "lobby");
  }

  /** Does what a line of somebody says who has not left. */
  obey(member: Member, line: string): void {
    if (!this.#rooms.get(member.room)?.has(member)) return;
    const [, command, name = ""] = /^\/(\S*)\s*(.*)$/.exec(line) ?? [];
    const isName = /^[\p{L}\p{N}_-]{1,16}$/u.test(name);
    if (command === undefined) {
      tell(this.#others(member), `${member.nick}: ${line}`);
    } else if (command === "quit") {
      member.dismiss("* goodbye");
    } else if (command === "who") {
      const nicks = [member, ...this.#others(member)].map(({ nick }) => nick);
      tell([member], `* in ${member.room}: ${shorten(nicks)}`);
    } else if (command === "rooms") {
      tell([member], `* ${shorten([...this.#rooms].map(([room, { size }]) => `${room} (${size})`))}`);
    } else if (command === "join" && isName) {
      this.#part(member, `goes to ${name}`);
      this.#enter(member, name);
    } else if (command === "nick" && isName) {
      this.#rename(member, name);
    } else {
      tell([member], HELP);
    }
  }

  /** Forgets somebody, and tells the others why. */
  leave(member: Member, why: string): void {
    if (this.#part(member, why)) this.#nicks.delete(member.nick);
  }

  /** Forgets everybody, and tells nobody. */
  clear(): void {
    this.#rooms.clear();
  }

  #enter(member: Member, room: string): void {
    member.room = room;
    tell(this.#others(member), `* ${member.nick} is here`);
    this.#rooms.set(room, (this.#rooms.get(room) ?? new Set()).add(member));
    this.obey(member, "/who");
  }

  #part(member: Member, why: string): boolean {
    const room = this.#rooms.get(member.room);
    if (!room?.delete(member)) return false;
    if (room.size === 0) this.#rooms.delete(member.room);
    tell(room, `* ${member.nick} ${why}`);
    return true;
  }

  #rename(member: Member, nick: string): void {
    if (this.#nicks.has(nick)) return tell([member], `* ${nick} is taken`);
    this.#nicks.delete(member.nick);
    this.#nicks.add(nick);
    tell(this.#rooms.get(member.room) ?? [], `* ${member.nick} is ${nick} now`);
    member.nick = nick;
  }

  #others(member: Member): Member[] {
    return [...this.#rooms.get(member.room) ?? []].filter((other) => other !== member);
  }
}

function shorten(names: string[]): string {
  return names.slice(0, MOST_NAMES).join(", ") + (names.length > MOST_NAMES ? `, … (${names.length})` : "");
}

/**
 * How a newly started program takes the listening sockets of the one that
 * runs: it connects to the other's control socket, gets copies of them, and
 * once its own children are up it tells the other to drain. The control socket
 * is one of them, so its file stays the same. Between the two there is no
 * moment in which nobody listens.
 */

import { socketError, SyscallError } from "../../internal/errors.ts";
import { libc } from "../../internal/libc.ts";
import { Unload, whenUnloaded } from "../../internal/unload.ts";
import { atCaller } from "../../internal/stack.ts";
import { TcpListener } from "../../tcp/tcp_listener.ts";
import { Link } from "../message/link.ts";
import { type Carried, type MovableSocket, receivedSocket } from "../message/socket_transfer.ts";
import { ProcessTransport } from "../message/process_transport.ts";
import { type FileIdentity, removeLeftBehind, socketAt } from "../message/socket_file.ts";
import { UnixListener, UnixSocket } from "../message/unix_socket.ts";

/** Milliseconds within which the running program must answer. */
const ANSWER_LIMIT = 10_000;
/** Milliseconds after which who was refused asks once more: another one that has just ended is missed by then. */
const ASK_AGAIN = 50;

type Question = { readonly ask: "listeners" | "drain" };
type Answer =
  | { readonly tell: "draining" }
  /** Its listeners come with this, and a copy of the control socket. */
  | { readonly tell: "listeners"; readonly file?: FileIdentity }
  | { readonly tell: "refused"; readonly why: string };

/** A control socket of another program, and the file that it has made. */
export interface Control {
  readonly listener: UnixListener;
  readonly file: FileIdentity;
}

/** What a running program has given. */
export interface Takeover {
  readonly listeners: TcpListener[];
  /** Its control socket, which is the caller's from then on. */
  takeControl(): Control | undefined;
  /** Tells it to take no more connections, and to give its control socket up; it may have ended meanwhile. */
  drain(): Promise<void>;
  close(): void;
}

/** The other program does not answer any more. */
class EndedError extends Error {}

/**
 * Takes the listeners of the program that serves `path`, an absolute path.
 *
 * @returns What it has given; `undefined` if there is none.
 */
export async function takeOver(path: string): Promise<Takeover | undefined> {
  requirePath(path);
  const action = `Cannot take over from the program at ${path}`;
  let socket: UnixSocket;
  try {
    if (socketAt(path) === undefined) return undefined;
    socket = UnixSocket.connect(path, `the program at ${path}`);
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    if (error.code === "ENOENT") return undefined;
    if (error.code !== "ECONNREFUSED") throw atCaller(new Error(`${action}: not a control socket`, { cause: error }));
    removeLeftBehind(path);
    return undefined;
  }
  if (!isTrusted(socket)) {
    socket.close();
    throw atCaller(new Deno.errors.PermissionDenied(`${action}: it is another user's`));
  }
  const link = new Link(`the program at ${path}`);
  let answer = Promise.withResolvers<TcpListener[]>();
  let control: UnixListener | undefined;
  let file: FileIdentity | undefined;
  link.takesMessages = false;
  link.receiveSocket = (kind, descriptor) => {
    if (kind !== "control") return receivedSocket(kind, descriptor);
    control?.close();
    control = new UnixListener(path, descriptor.detach());
    return undefined;
  };
  link.onPacket = ({ body }, sockets) => {
    const said = body as Answer;
    if (said.tell === "refused") answer.reject(atCaller(new Deno.errors.Busy(`${action}: ${said.why}`)));
    if (said.tell === "draining") answer.resolve([]);
    const listeners = said.tell === "listeners" ? sockets.filter((socket) => socket instanceof TcpListener) : [];
    if (said.tell === "listeners") {
      if (isIdentity(said.file)) file = said.file;
      answer.resolve(listeners);
    }
    for (const socket of sockets) if (!listeners.includes(socket as TcpListener)) socket.close();
  };
  const transport = new ProcessTransport(socket, link, (error) => {
    const reason = atCaller(new EndedError(`${action}: it has ended`, { cause: error }));
    answer.reject(reason);
    link.close(reason);
  });
  link.attach(transport);
  const ask = async (question: Question): Promise<TcpListener[]> => {
    answer = Promise.withResolvers();
    const giveUp = () => answer.reject(atCaller(new Deno.errors.TimedOut(`${action}: no answer`)));
    const timer = setTimeout(giveUp, ANSWER_LIMIT);
    try {
      await link.post({ type: "pool", body: question });
      return await answer.promise;
    } finally {
      answer.promise.catch(() => {});
      clearTimeout(timer);
    }
  };
  const drain = async () => {
    try {
      await ask({ ask: "drain" });
    } catch (error) {
      // Somebody else has ended it: its listeners are here.
      if (!(error instanceof EndedError)) throw error;
    }
  };
  const takeControl = () => {
    if (control === undefined || file === undefined) return undefined;
    const taken: Control = { listener: control, file };
    control = undefined;
    return taken;
  };
  const close = () => {
    link.close(new Deno.errors.BadResource("The takeover is over"));
    transport.close();
    control?.close();
  };
  const take = async () => {
    try {
      return await ask({ ask: "listeners" });
    } catch (refusal) {
      if (!(refusal instanceof Deno.errors.Busy)) throw refusal;
      await new Promise((resolve) => setTimeout(resolve, ASK_AGAIN));
      return await ask({ ask: "listeners" }).catch(() => Promise.reject(refusal));
    }
  };
  try {
    return { listeners: await take(), takeControl, drain, close };
  } catch (error) {
    close();
    throw error;
  }
}

/** The side that runs: answers at a path. */
export class ControlServer {
  readonly #listener: UnixListener;
  /** The file of a listener that was taken over. */
  readonly #file: FileIdentity | undefined;
  readonly #listeners: () => MovableSocket[];
  readonly #drain: () => void;
  readonly #links = new Set<Link>();
  readonly #forget: () => void;
  /** The one that takes over, until it has ended. */
  #successor: Link | undefined;

  /** Answers nobody before {@linkcode ControlServer.publish}; `taken` is the other one's control socket. */
  constructor(
    path: string,
    listeners: () => MovableSocket[],
    drain: () => unknown,
    taken?: Control,
  ) {
    this.#listeners = listeners;
    this.#drain = () => void drain();
    this.#listener = taken?.listener ?? new UnixListener(path);
    this.#file = taken?.file;
    this.#listener.ref(false);
    this.#forget = whenUnloaded(Unload.END, () => this.close());
  }

  /** Answers from now on: at the path that it binds, or by the socket that the other one has given up. */
  publish(): void {
    try {
      this.#listener.publish(this.#file);
    } catch (error) {
      throw error instanceof SyscallError ? socketError(`listen on ${this.#listener.path}`, error) : error;
    }
    this.#run();
  }

  /** Another program has the listeners, and has not ended. */
  get hasSuccessor(): boolean {
    return this.#successor !== undefined;
  }

  close(): void {
    this.#forget();
    // The file may be the successor's by now, and if not, the next one finds that nobody serves it.
    this.#listener.close(this.#successor !== undefined);
    // Who was told that this one drains has its answer first.
    for (const link of this.#links) setTimeout(() => link.close(new Deno.errors.BadResource("The pool is closed")));
  }

  async #run(): Promise<void> {
    while (true) {
      let socket: UnixSocket;
      try {
        socket = await this.#listener.accept();
      } catch (error) {
        if (error instanceof Deno.errors.BadResource) return;
        // No descriptor is free, for example: the one who asks tries again.
        await new Promise((resolve) => setTimeout(resolve, 100));
        continue;
      }
      if (isTrusted(socket)) this.#serve(socket);
      else socket.close();
    }
  }

  #serve(socket: UnixSocket): void {
    const link = new Link("the program that takes over");
    this.#links.add(link);
    link.takesMessages = false;
    link.onPacket = ({ body }, sockets) => {
      for (const socket of sockets) socket.close();
      this.#answer(link, (body as Question).ask);
    };
    const transport = new ProcessTransport(socket, link, (error) => {
      this.#links.delete(link);
      // It has failed: the next one may try.
      if (this.#successor === link) this.#successor = undefined;
      link.close(error ?? new Deno.errors.BrokenPipe("The other program has ended"));
    });
    transport.ref(false);
    link.attach(transport);
  }

  #answer(link: Link, question: Question["ask"]): void {
    if (this.#successor !== undefined && this.#successor !== link) {
      return this.#tell(link, { tell: "refused", why: "another one takes over already" });
    }
    if (question === "listeners") {
      let listeners: Carried[];
      try {
        listeners = this.#listeners();
        listeners.push(this.#copy(listeners));
      } catch (error) {
        return this.#tell(link, { tell: "refused", why: String(error) });
      }
      this.#successor = link;
      const { file } = this.#listener;
      this.#tell(link, { tell: "listeners", ...(file === undefined ? {} : { file: identityOf(file) }) }, listeners);
    } else if (question === "drain" && this.#successor === link) {
      this.#tell(link, { tell: "draining" });
      this.#drain();
    }
  }

  /** A copy of the control socket; without one the others are closed. */
  #copy(others: readonly Carried[]): UnixListener {
    try {
      return this.#listener.copy();
    } catch (error) {
      for (const other of others) other.close();
      throw error;
    }
  }

  #tell(link: Link, body: Answer, sockets: readonly Carried[] = []): void {
    link.post({ type: "pool", body }, sockets).catch(() => {
      for (const socket of sockets) socket.close();
    });
  }
}

/** The other side runs as this user, or as root. */
function isTrusted(socket: UnixSocket): boolean {
  try {
    const { uid } = socket.peer;
    return uid === libc.getuid() || uid === 0;
  } catch {
    return false;
  }
}

function identityOf({ device, inode }: FileIdentity): FileIdentity {
  return { device, inode };
}

function isIdentity(value: unknown): value is FileIdentity {
  const { device, inode } = (value ?? {}) as Partial<FileIdentity>;
  return typeof device === "bigint" && typeof inode === "bigint";
}

function requirePath(path: string): void {
  for (const name of ["read", "write"] as const) {
    if (Deno.permissions.querySync({ name, path }).state !== "granted") {
      throw atCaller(
        new Deno.errors.NotCapable(
          `Cannot listen on ${path}: requires ${name} access to it, run again with the --allow-${name} flag`,
        ),
      );
    }
  }
}

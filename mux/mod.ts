/**
 * Readiness: watch many sockets with one thread.
 *
 * | textbook | here |
 * |---|---|
 * | select | {@linkcode Multiplexer} with `backend: "select"` |
 * | poll | with `backend: "poll"` |
 * | epoll_create, epoll_ctl | `new Multiplexer()`, {@linkcode Multiplexer.register}, {@linkcode Multiplexer.modify}, {@linkcode Multiplexer.unregister} |
 * | epoll_wait | {@linkcode Multiplexer.wait}, {@linkcode Multiplexer.waitSync} |
 * | the self-pipe trick, eventfd | {@linkcode Multiplexer.wake}, {@linkcode Waker} |
 *
 * @example Wait for the first of two clients
 * ```ts
 * import { Multiplexer } from "@c10k/sockets/mux";
 * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * using a = await TcpConn.connect({ port: listener.addr.port });
 * using b = await TcpConn.connect({ port: listener.addr.port });
 * using atA = await listener.accept();
 * using atB = await listener.accept();
 *
 * using mux = new Multiplexer<string>();
 * mux.register(atA, { readable: true }, "a");
 * mux.register(atB, { readable: true }, "b");
 * await b.writeAll(new TextEncoder().encode("hello"));
 * for (const event of await mux.wait()) console.log(event.data); // b
 * ```
 *
 * @module
 */

export type { Interest, ReadyEvent, Source } from "./interest.ts";
export { Multiplexer, type MultiplexerOptions, type MuxRegistration } from "./multiplexer.ts";
export type { Backend } from "../poll/selector.ts";
export type { Readiness } from "../poll/readiness.ts";
export type { WaitOptions } from "../internal/wait.ts";
export { Waker } from "./waker.ts";

/** The name server that knows: asked by UDP, and by TCP for what is too long for a datagram. */

import { TcpConn } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
// @ts-types="@types/dns-packet"
import dns, { type DecodedPacket, type Packet, type Question } from "dns-packet";
import { isSame, makeOpt, parse, readMessage, writeMessage } from "./message.ts";

/** Largest datagram that is received; a larger one than agreed is cut, and then is no packet. */
const BUFFER = 4096;
/** Between two attempts, in milliseconds: a server that refuses may be starting. */
const PAUSE = 100;

/** Asks one server. */
export class Upstream {
  readonly address: { readonly hostname: string; readonly port: number };

  /** Its IP address, how long to wait for it in milliseconds, and how often. */
  constructor(
    { hostname, port }: Upstream["address"],
    readonly timeout: number = 2_000,
    readonly attempts: number = 2,
  ) {
    // As datagrams from there will have it.
    const { hostname: written } = new URL(`http://${hostname.includes(":") ? `[${hostname}]` : hostname}`);
    this.address = { hostname: written.replace(/^\[|\]$/g, ""), port };
  }

  /**
   * Asks a question.
   *
   * @param flags RD, CD and AD as the client has set them.
   * @param isSecure Whether signatures are wanted.
   */
  async ask(question: Question, flags: number, isSecure: boolean): Promise<DecodedPacket> {
    for (let attempt = 1;; attempt++) {
      // As random as it can be made, and from a port of its own: who forges an answer must guess both.
      const id = crypto.getRandomValues(new Uint16Array(1))[0] ?? 0;
      const packet: Packet = { type: "query", id, flags, questions: [question], additionals: [makeOpt(isSecure)] };
      try {
        const reply = await this.#askByUdp(packet, question);
        return reply.flag_tc ? await this.#askByTcp(packet, question) : reply;
      } catch (error) {
        if (attempt >= this.attempts) throw error;
        await new Promise((resolve) => setTimeout(resolve, PAUSE));
      }
    }
  }

  async #askByUdp(packet: Packet, question: Question): Promise<DecodedPacket> {
    const { hostname, port } = this.address;
    using endpoint = UdpEndpoint.bind({ hostname: hostname.includes(":") ? "::" : "0.0.0.0" });
    const signal = AbortSignal.timeout(this.timeout);
    await endpoint.sendTo(dns.encode(packet), this.address, { signal });
    const p = new Uint8Array(BUFFER);
    while (true) {
      const { data, address } = await endpoint.recvFrom(p, { signal });
      const isFromThere = address.hostname === hostname && address.port === port;
      const reply = isFromThere ? answerTo(packet, question, data) : undefined;
      // What does not match is late, broken or forged; the true one may come still.
      if (reply !== undefined) return reply;
    }
  }

  async #askByTcp(packet: Packet, question: Question): Promise<DecodedPacket> {
    const signal = AbortSignal.timeout(this.timeout);
    using conn = await TcpConn.connect({ ...this.address, signal });
    await writeMessage(conn, dns.encode(packet), { signal });
    const bytes = await readMessage(conn, { signal });
    const reply = bytes === undefined ? undefined : answerTo(packet, question, bytes);
    if (reply === undefined) throw new Error("The answer by TCP does not match the question");
    return reply;
  }
}

/** An answer to this very question, else `undefined`. */
function answerTo(packet: Packet, question: Question, bytes: Uint8Array): DecodedPacket | undefined {
  const reply = parse(bytes);
  const isAnswer = reply?.flag_qr && reply.id === packet.id && reply.questions?.length === 1;
  return isAnswer && isSame(reply.questions?.[0], question) ? reply : undefined;
}

/** Layouts of C structs, against bytes that a C program wrote here and now, and against the kernel's. */

import { IPPROTO_IP, IPPROTO_IPV6 } from "../internal/constants.ts";
import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { formatIPv6, parseIPv6 } from "../internal/address.ts";
import { loadLibc } from "../internal/libc.ts";
import { decodeSockaddr, encodeSockaddr } from "../internal/sockaddr.ts";
import { decodeTcpInfo } from "../tcp/tcp_info.ts";
import { SOL_UDP, UDP_GRO, UDP_SEGMENT } from "../udp/offload_batch.ts";
import { IP_PKTINFO, IPV6_PKTINFO, IPV6_RECVPKTINFO, PacketInfo, writeLocal } from "../udp/packet_info.ts";
import { ENGINES, hasCommand, sized } from "./_util.ts";

const native = ENGINES.includes("native");
if (native) loadLibc();

/** Prints, in hexadecimal, what the headers of this machine make of the structs that are laid out by hand. */
const PROGRAM = String.raw`
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/tcp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
static void dump(const char *name, const void *p, size_t n) {
  printf("%s ", name);
  for (size_t i = 0; i < n; i++) printf("%02x", ((const unsigned char *)p)[i]);
  printf("\n");
}
int main(void) {
  struct sockaddr_in four; memset(&four, 0, sizeof four);
  four.sin_family = AF_INET; four.sin_port = htons(8080);
  inet_pton(AF_INET, "192.0.2.1", &four.sin_addr);
  dump("192.0.2.1", &four, sizeof four);
  struct sockaddr_in6 six; memset(&six, 0, sizeof six);
  six.sin6_family = AF_INET6; six.sin6_port = htons(443);
  inet_pton(AF_INET6, "2001:db8::ff", &six.sin6_addr);
  dump("2001:db8::ff", &six, sizeof six);
  inet_pton(AF_INET6, "fe80::1", &six.sin6_addr); six.sin6_scope_id = 1;
  dump("fe80::1%lo", &six, sizeof six);
  inet_pton(AF_INET6, "::ffff:192.0.2.1", &six.sin6_addr); six.sin6_scope_id = 0;
  dump("::ffff:192.0.2.1", &six, sizeof six);
  struct epoll_event event; memset(&event, 0, sizeof event);
  event.events = EPOLLIN; event.data.u64 = 0x1122334455667788ull;
  dump("epoll_event", &event, sizeof event);
  struct tcp_info info; unsigned char *bytes = (unsigned char *)&info;
  for (size_t i = 0; i < sizeof info; i++) bytes[i] = 0;
  info.tcpi_state = 8; info.tcpi_retransmits = 2; info.tcpi_rto = 3; info.tcpi_snd_mss = 4; info.tcpi_rcv_mss = 5;
  info.tcpi_unacked = 6; info.tcpi_lost = 7; info.tcpi_last_data_sent = 8; info.tcpi_last_data_recv = 9;
  info.tcpi_pmtu = 10; info.tcpi_rtt = 11; info.tcpi_rttvar = 12; info.tcpi_snd_ssthresh = 13; info.tcpi_snd_cwnd = 14;
  info.tcpi_rcv_space = 15; info.tcpi_total_retrans = 16; info.tcpi_bytes_acked = 17; info.tcpi_bytes_received = 18;
  info.tcpi_min_rtt = 19; info.tcpi_delivery_rate = 20;
  dump("tcp_info", &info, sizeof info > 168 ? 168 : sizeof info);
  struct pollfd watched = {.fd = 0x11223344, .events = POLLIN | POLLRDHUP, .revents = POLLHUP};
  dump("pollfd", &watched, sizeof watched);
  fd_set set; FD_ZERO(&set); FD_SET(0, &set); FD_SET(31, &set); FD_SET(64, &set); FD_SET(FD_SETSIZE - 1, &set);
  dump("fd_set", &set, sizeof set);
  struct timespec fine = {.tv_sec = 1, .tv_nsec = 2}; dump("timespec", &fine, sizeof fine);
  struct timeval coarse = {.tv_sec = 1, .tv_usec = 2}; dump("timeval", &coarse, sizeof coarse);
  printf("mmsghdr %zu %zu %zu %zu %zu %zu\n", sizeof(struct mmsghdr), offsetof(struct mmsghdr, msg_hdr.msg_name),
         offsetof(struct mmsghdr, msg_hdr.msg_namelen), offsetof(struct mmsghdr, msg_hdr.msg_iov),
         offsetof(struct mmsghdr, msg_hdr.msg_iovlen), offsetof(struct mmsghdr, msg_len));
  printf("control %zu %zu %zu %zu %zu %zu %zu %zu\n", offsetof(struct mmsghdr, msg_hdr.msg_control),
         offsetof(struct mmsghdr, msg_hdr.msg_controllen), offsetof(struct cmsghdr, cmsg_level),
         offsetof(struct cmsghdr, cmsg_type), CMSG_LEN(0), CMSG_LEN(sizeof(short)), CMSG_LEN(sizeof(int)), CMSG_SPACE(8));
  printf("offload %d %d %d\n", SOL_UDP, UDP_SEGMENT, UDP_GRO);
  printf("pktinfo %zu %zu %zu %zu %zu %zu %d %d %d %d %d\n", sizeof(struct in_pktinfo),
         offsetof(struct in_pktinfo, ipi_spec_dst), offsetof(struct in_pktinfo, ipi_addr), sizeof(struct in6_pktinfo),
         offsetof(struct in6_pktinfo, ipi6_addr), offsetof(struct in6_pktinfo, ipi6_ifindex), IPPROTO_IP, IP_PKTINFO,
         IPPROTO_IPV6, IPV6_RECVPKTINFO, IPV6_PKTINFO);
  union { char room[256]; struct cmsghdr align; } sent; memset(&sent, 0, sizeof sent);
  struct msghdr head = {.msg_control = sent.room, .msg_controllen = sizeof sent.room};
  struct cmsghdr *message = CMSG_FIRSTHDR(&head);
  message->cmsg_level = IPPROTO_IP; message->cmsg_type = IP_PKTINFO; message->cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo));
  struct in_pktinfo info4; memset(&info4, 0, sizeof info4);
  inet_pton(AF_INET, "192.0.2.1", &info4.ipi_spec_dst);
  memcpy(CMSG_DATA(message), &info4, sizeof info4);
  dump("from-192.0.2.1", sent.room, CMSG_SPACE(sizeof info4));
  memset(&sent, 0, sizeof sent);
  message->cmsg_level = IPPROTO_IPV6; message->cmsg_type = IPV6_PKTINFO; message->cmsg_len = CMSG_LEN(sizeof(struct in6_pktinfo));
  struct in6_pktinfo info6; memset(&info6, 0, sizeof info6);
  inet_pton(AF_INET6, "fe80::1", &info6.ipi6_addr); info6.ipi6_ifindex = 1;
  memcpy(CMSG_DATA(message), &info6, sizeof info6);
  dump("from-fe80::1%lo", sent.room, CMSG_SPACE(sizeof info6));
  printf("iovec %zu %zu %zu\n", sizeof(struct iovec), offsetof(struct iovec, iov_base), offsetof(struct iovec, iov_len));
  printf("group %zu %zu %zu %zu\n", sizeof(struct group_req), offsetof(struct group_req, gr_group),
         sizeof(struct group_source_req), offsetof(struct group_source_req, gsr_source));
  printf("mreq %zu %zu %zu %zu %zu %zu\n", sizeof(struct ip_mreqn), offsetof(struct ip_mreqn, imr_address),
         offsetof(struct ip_mreqn, imr_ifindex), sizeof(struct ip_mreq_source),
         offsetof(struct ip_mreq_source, imr_interface), offsetof(struct ip_mreq_source, imr_sourceaddr));
  printf("multicast %d %d %d %d %d %d %d %d %d\n", IP_ADD_MEMBERSHIP, IP_DROP_MEMBERSHIP, IP_ADD_SOURCE_MEMBERSHIP,
         IP_DROP_SOURCE_MEMBERSHIP, MCAST_JOIN_GROUP, MCAST_LEAVE_GROUP, MCAST_JOIN_SOURCE_GROUP,
         MCAST_LEAVE_SOURCE_GROUP, IP_MULTICAST_IF);
  printf("poll %d %d %d %d %d %d %d\n", POLLIN, POLLPRI, POLLOUT, POLLERR, POLLHUP, POLLNVAL, POLLRDHUP);
  printf("epoll %d %d %d %d %d - %d\n", EPOLLIN, EPOLLPRI, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP);
  printf("addrinfo %zu %zu %zu %zu %zu\n", sizeof(struct addrinfo), offsetof(struct addrinfo, ai_socktype),
         offsetof(struct addrinfo, ai_addrlen), offsetof(struct addrinfo, ai_addr), offsetof(struct addrinfo, ai_next));
  return 0;
}`;

const compiler = hasCommand("cc");

Deno.test({
  name: `struct layouts are those of a C program (${compiler ? "with cc" : "missing: cc"})`,
  ignore: !native || !compiler && Deno.env.get("CI") !== "true",
  async fn() {
    const folder = await Deno.makeTempDir();
    try {
      await Deno.writeTextFile(`${folder}/layout.c`, PROGRAM);
      const built = await new Deno.Command("cc", { args: ["-o", `${folder}/layout`, `${folder}/layout.c`] }).output();
      assert(built.success, new TextDecoder().decode(built.stderr));
      const { stdout } = await new Deno.Command(`${folder}/layout`).output();
      const lines = new TextDecoder().decode(stdout).trim().split("\n").map((line) => line.split(" "));
      const printed = new Map(lines.map(([name = "", ...rest]) => [name, rest]));
      const bytesOf = (name: string) => Uint8Array.fromHex(printed.get(name)?.[0] ?? "");

      const ports = { "192.0.2.1": 8080, "2001:db8::ff": 443, "fe80::1%lo": 443, "::ffff:192.0.2.1": 443 };
      for (const [hostname, port] of Object.entries(ports)) {
        assertEquals(encodeSockaddr({ hostname, port }), bytesOf(hostname), hostname);
        assertEquals(decodeSockaddr(bytesOf(hostname)), { hostname, port });
      }
      const event = bytesOf("epoll_event");
      const words = Deno.build.arch === "x86_64" ? 3 : 4;
      assertEquals(event.length, words * 4);
      assertEquals(new Uint32Array(event.buffer)[words - 2], 0x55667788);
      assertEquals(new Uint32Array(event.buffer)[words - 1], 0x11223344);
      // poll/poll.ts: the descriptor, then what is asked and what is answered in 16 bits each.
      assertEquals([...new Int32Array(bytesOf("pollfd").buffer)], [0x11223344, 0x2001 | 0x10 << 16]);
      // poll/select.ts: a bit a descriptor, in 32-bit words.
      const set = new Int32Array(bytesOf("fd_set").buffer);
      assertEquals([set.length, set[0], set[2], set[31]], [32, 1 | 1 << 31, 1, 1 << 31]);
      assertEquals([...new BigInt64Array(bytesOf("timespec").buffer)], [1n, 2n]);
      assertEquals([...new BigInt64Array(bytesOf("timeval").buffer)], [1n, 2n]);
      // poll/poll_events.ts: the same numbers for poll and epoll.
      assertEquals(printed.get("poll")?.map(Number), [0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x2000]);
      assertEquals(printed.get("epoll"), printed.get("poll")?.with(5, "-"));
      // internal/msghdr.ts, in words of 4 bytes there; udp/offload_batch.ts; udp/native_multicast.ts.
      assertEquals(printed.get("mmsghdr")?.map(Number), [64, 0, 8, 16, 24, 56]);
      assertEquals(printed.get("control")?.map(Number), [32, 40, 8, 12, 16, 18, 20, 24]);
      assertEquals(printed.get("offload")?.map(Number), [SOL_UDP, UDP_SEGMENT, UDP_GRO]);
      // udp/packet_info.ts
      assertEquals(printed.get("pktinfo")?.map(Number), [
        12,
        4,
        8,
        20,
        0,
        16,
        IPPROTO_IP,
        IP_PKTINFO,
        IPPROTO_IPV6,
        IPV6_RECVPKTINFO,
        IPV6_PKTINFO,
      ]);
      for (const hostname of ["192.0.2.1", "fe80::1%lo", "::ffff:192.0.2.1"]) {
        const control = new Uint32Array(10);
        const local = new PacketInfo(1).locals;
        local.set(0, encodeSockaddr({ hostname, port: 0 }));
        const words = writeLocal(local, 0, control, 0);
        const name = `from-${hostname.replace("::ffff:", "")}`;
        assertEquals(new Uint8Array(control.buffer, 0, words * 4), bytesOf(name), hostname);
      }
      assertEquals(printed.get("iovec")?.map(Number), [16, 0, 8]);
      assertEquals(printed.get("group")?.map(Number), [136, 8, 264, 136]);
      assertEquals(printed.get("mreq")?.map(Number), [12, 4, 8, 12, 4, 8]);
      assertEquals(printed.get("multicast")?.map(Number), [35, 36, 39, 40, 42, 45, 46, 47, 32]);
      assertEquals(printed.get("addrinfo"), ["48", "8", "16", "24", "40"]);
      const info = bytesOf("tcp_info");
      assertEquals(decodeTcpInfo(info, info.length), {
        state: "CLOSE_WAIT",
        retransmits: 2,
        retransmitTimeout: 3,
        sendSegmentSize: 4,
        receiveSegmentSize: 5,
        unacknowledged: 6,
        lost: 7,
        lastDataSent: 8,
        lastDataReceived: 9,
        pathMtu: 10,
        rtt: 11,
        rttVariance: 12,
        slowStartThreshold: 13,
        congestionWindow: 14,
        receiveSpace: 15,
        totalRetransmits: 16,
        bytesAcknowledged: 17,
        bytesReceived: 18,
        minRtt: 19,
        deliveryRate: 20,
      });
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});

Deno.test("decodeTcpInfo() gives 0 for what an older kernel does not write", () => {
  const info = decodeTcpInfo(new Uint8Array(168).fill(1), 104);
  assertEquals([info.bytesReceived, info.minRtt, info.deliveryRate], [0, 0, 0]);
  assert(info.totalRetransmits > 0);
});

Deno.test({
  name: "decodeSockaddr() after encodeSockaddr() is the identity",
  ignore: !native,
  fn() {
    const ipv6 = fc.uint8Array({ minLength: 16, maxLength: 16 }).map(formatIPv6);
    fc.assert(fc.property(fc.oneof(fc.ipV4(), ipv6), fc.integer({ min: 0, max: 65535 }), (hostname, port) => {
      const bytes = encodeSockaddr({ hostname, port });
      assert(bytes !== undefined);
      assertEquals(decodeSockaddr(bytes), { hostname, port });
    }));
  },
});

Deno.test({
  name: "decodeSockaddr() of any bytes gives an address or a TypeError",
  ignore: !native,
  fn() {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), fc.constantFrom(2, 10, 1, 77), (list, family) => {
        const bytes = new Uint8Array(list);
        if (bytes.length > 1) bytes.set([family, 0]);
        try {
          const { hostname, port } = decodeSockaddr(bytes);
          assert(port >= 0 && port <= 65535);
          if (family === 10) assert(parseIPv6(hostname.split("%", 1)[0] as string) !== undefined);
        } catch (error) {
          if (!(error instanceof TypeError)) throw error;
        }
      }),
      { numRuns: sized(500, 5_000) },
    );
    assertThrows(() => decodeSockaddr(new Uint8Array(0)), TypeError, "Cannot decode a socket address");
  },
});

Deno.test({
  name: "encodeSockaddr() gives nothing for names and for interfaces that are not there",
  ignore: !native,
  fn() {
    assertEquals(encodeSockaddr({ hostname: "localhost", port: 1 }), undefined);
    assertEquals(encodeSockaddr({ hostname: "fe80::1%nosuch0", port: 1 }), undefined);
  },
});

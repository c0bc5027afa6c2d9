/**
 * What recvmsg(2), sendmsg(2), recvmmsg(2) and sendmmsg(2) take. On machines
 * with 64-bit pointers, in 32-bit words (bits/types/struct_iovec.h,
 * bits/socket.h); a `struct msghdr` is a `struct mmsghdr` without its end:
 *
 *     struct iovec     0 base 64 bits | 2 length 64 bits                                       4 words
 *     struct mmsghdr   0 name 64 bits | 2 namelen | 4 iov 64 bits | 6 iovlen 64 bits
 *                      8 control 64 bits | 10 controllen 64 bits | 12 flags | 14 msg_len      16 words
 *     struct cmsghdr   0 len 64 bits | 2 level | 3 type | 4 data
 */

import { libc } from "./libc.ts";

export const IOVEC_WORDS = 4;
export const IOVEC_LENGTH = 2;
export const HEADER_WORDS = 16;
export const NAME = 0;
export const NAME_LENGTH = 2;
export const IOVEC = 4;
export const IOVEC_COUNT = 6;
export const CONTROL = 8;
export const CONTROL_LENGTH = 10;
export const FLAGS = 12;
export const RECEIVED = 14;
/** Words of a control message with up to 8 bytes of data: `CMSG_SPACE(8)`. */
export const CONTROL_WORDS = 6;
export const CONTROL_DATA = 4;

/**
 * Finds a control message.
 *
 * @param control The messages, from word `at` on.
 * @param length Their bytes.
 * @returns The word where its data begins, -1 if there is no such message.
 */
export function findControl(
  control: Uint32Array<ArrayBuffer>,
  at: number,
  length: number,
  level: number,
  type: number,
): number {
  const end = at + (length >> 2);
  while (at + CONTROL_DATA <= end) {
    if (control[at + 2] === level && control[at + 3] === type) return at + CONTROL_DATA;
    // The next one begins at a multiple of 8 bytes: `CMSG_ALIGN`.
    const words = ((control[at] as number) + 7 >> 3) * 2;
    if (words < CONTROL_DATA) break;
    at += words;
  }
  return -1;
}

/** Where a buffer lies; it does not move as long as it is not transferred away. */
export function pointerTo(bytes: Uint8Array<ArrayBuffer>): number {
  // The address space of a process ends below 2 ** 48.
  return Number(libc.memcpy_address(bytes, null, 0));
}

/** Writes a pointer in two words. */
export function setPointer(words: Uint32Array, at: number, address: number): void {
  words[at] = address % 2 ** 32;
  words[at + 1] = Math.floor(address / 2 ** 32);
}

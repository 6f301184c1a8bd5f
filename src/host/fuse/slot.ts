/**
 * Buffers for requests and their replies. A slot belongs to one request from the moment it is read until its reply is
 * written: a payload is handed on as a view, never copied, so a shared slot would put one block's data in another's place.
 */
import type { Bytes } from '../../base/contracts.ts';
import { MAX_IO, PAGE, REPLY_HEADER, WRITE_PAYLOAD } from './protocol.ts';

/** The reply lies behind the first page: header in front of it, body from there on. */
const BODY_AT = PAGE;

/**
 * A request lies at the start, its reply's body behind the first page. A WRITE's payload overlaps the reply; the reply
 * is put there only when the payload is done with.
 */
export class Slot {
  /** Of a reply's body, and of a WRITE's payload. */
  readonly longest: Bytes;
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly words: Uint32Array;
  /** The reply's body. */
  readonly body: Uint8Array;
  readonly bodyWords: Uint32Array;
  #into: Uint8Array;
  #payload: Uint8Array;

  constructor(longest: Bytes = MAX_IO) {
    this.longest = longest;
    const memory = new ArrayBuffer(PAGE + longest);
    this.bytes = new Uint8Array(memory);
    // Killed while the kernel copies into a page that is not there yet, a process leaves the caller an EIO: every page
    // is touched before its first use. Zero pages of a fresh mapping count as not there.
    this.bytes.fill(1);
    this.words = new Uint32Array(memory);
    this.body = new Uint8Array(memory, BODY_AT);
    this.bodyWords = new Uint32Array(memory, BODY_AT);
    this.#into = this.body;
    this.#payload = this.bytes;
  }

  /** The first `length` bytes of the body. Kept for the next request, which mostly has the same length. */
  into(length: number): Uint8Array {
    if (this.#into.length !== length) this.#into = this.body.subarray(0, length);
    return this.#into;
  }

  /** The payload of a WRITE. */
  payload(length: number): Uint8Array {
    if (this.#payload.length !== length) this.#payload = this.bytes.subarray(WRITE_PAYLOAD, WRITE_PAYLOAD + length);
    return this.#payload;
  }

  /** Puts the reply's header before the body; the reply is then `REPLY_HEADER + length` bytes from `replyAt`. */
  head(errno: number, length: number): void {
    const words = this.words;
    const at = (BODY_AT - REPLY_HEADER) / 4;
    words[at] = REPLY_HEADER + length;
    words[at + 1] = -errno;
    words[at + 2] = words[2]!;
    words[at + 3] = words[3]!;
  }

  get replyAt(): number {
    return BODY_AT - REPLY_HEADER;
  }
}

export interface SlotPool {
  /** null: all are in use; `give` brings one back. */
  take(): Slot | null;
  give(slot: Slot): void;
}

/** Makes slots when they are first needed, `limit` at most. */
export function slotPool(limit: number, longest: Bytes): SlotPool {
  const free: Slot[] = [];
  let made = 0;
  return {
    take() {
      const slot = free.pop();
      if (slot !== undefined) return slot;
      if (made === limit) return null;
      made++;
      return new Slot(longest);
    },
    give: slot => {
      free.push(slot);
    },
  };
}

/**
 * Long answers that lie in a file as they are: the kernel passes them from the page cache to the caller (splice(2)) through
 * a pipe, with the reply's header in front, and this program does not touch them.
 */
import fs from 'node:fs';
import type { Bytes, Place } from '../../base/contracts.ts';
import { native, type Pipe } from '../../base/native.ts';
import { MAX_IO, REPLY_HEADER } from './protocol.ts';
import type { Slot } from './slot.ts';

/** Less is copied in less time than it takes to pass it on (`docs/decisions/splice.md`). */
export const LEAST_SPLICED: Bytes = 256 * 1024;
/**
 * A pipe counts pages: the header has one to itself, and data that begins inside a page one more than its length says. More
 * than 1 MiB is for users with CAP_SYS_RESOURCE only (pipe(7)).
 */
const CAPACITY = 2 * MAX_IO;

export class ReplyPipe {
  readonly #device: number;
  #pipe: Pipe | null;

  private constructor(device: number, pipe: Pipe) {
    this.#device = device;
    this.#pipe = pipe;
  }

  /** null: no such pipe is to be had here. */
  static open(device: number): ReplyPipe | null {
    const pipe = native()?.pipe(CAPACITY) ?? null;
    return pipe === null ? null : new ReplyPipe(device, pipe);
  }

  /** Answers the request in `slot` with what lies at `place`. false: nothing was answered; it is to be read. */
  send(slot: Slot, place: Place, length: Bytes): boolean {
    const { source } = place;
    if (this.#pipe === null || source.splice === undefined || length > MAX_IO) return false;
    const { input, output } = this.#pipe;
    slot.head(0, length);
    fs.writeSync(input, slot.bytes, slot.replyAt, REPLY_HEADER);
    const put = source.splice(input, place.at, length);
    if (put < length) return this.#empty(slot, REPLY_HEADER + put);
    const total = REPLY_HEADER + length;
    return native()!.splice(output, null, this.#device, total) === total || this.#renew();
  }

  /** What an answer that was not sent left in the pipe must not come before the next one. */
  #empty(slot: Slot, length: Bytes): false {
    for (let left = length; left > 0; ) left -= fs.readSync(this.#pipe!.output, slot.body, 0, left, null);
    return false;
  }

  /** Nobody knows what a device that refuses an answer has left of it. */
  #renew(): false {
    this.close();
    this.#pipe = native()!.pipe(CAPACITY);
    return false;
  }

  close(): void {
    if (this.#pipe === null) return;
    fs.closeSync(this.#pipe.input);
    fs.closeSync(this.#pipe.output);
    this.#pipe = null;
  }
}

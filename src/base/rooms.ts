/** Memory for what is read and used up soon after: the same again and again, so that it is in the processor's cache. */
import type { Bytes } from './contracts.ts';

const STEP: Bytes = 65_536;
/** So much is kept, unless said otherwise. */
const MOST: Bytes = 4 * 2 ** 20;

export class Rooms {
  readonly #free: Uint8Array<ArrayBuffer>[] = [];
  readonly #most: Bytes;
  #held: Bytes = 0;

  constructor(most: Bytes = MOST) {
    this.#most = most;
  }

  /** At least so long. What is in it is what somebody else left. To be given back, unless something may still write to it. */
  take(length: Bytes): Uint8Array<ArrayBuffer> {
    const at = this.#free.findLastIndex(room => room.length >= length);
    if (at < 0) return new Uint8Array(Math.ceil(length / STEP) * STEP);
    const [room] = this.#free.splice(at, 1) as [Uint8Array<ArrayBuffer>];
    this.#held -= room.length;
    return room;
  }

  give(room: Uint8Array<ArrayBuffer>): void {
    if (this.#held + room.length > this.#most) return;
    this.#free.push(room);
    this.#held += room.length;
  }

  /** Runs `use` with so many bytes of any content, which are somebody else's when it has succeeded. */
  async lend<T>(length: Bytes, use: (room: Uint8Array<ArrayBuffer>) => Promise<T>): Promise<T> {
    const room = this.take(length);
    const result = await use(room.subarray(0, length));
    // What failed may still be written to by a part of the work.
    this.give(room);
    return result;
  }
}

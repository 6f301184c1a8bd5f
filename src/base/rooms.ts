/** Memory for what is read and used up soon after: the same again and again, so that it is in the processor's cache. */
import type { Bytes } from './contracts.ts';

const STEP: Bytes = 65_536;
/** So much is kept. */
const MOST: Bytes = 4 * 2 ** 20;

export class Rooms {
  readonly #free: Uint8Array[] = [];
  #held: Bytes = 0;

  /** At least so long. What is in it is what somebody else left. To be given back, unless something may still write to it. */
  take(length: Bytes): Uint8Array {
    const at = this.#free.findLastIndex(room => room.length >= length);
    if (at < 0) return new Uint8Array(Math.ceil(length / STEP) * STEP);
    const [room] = this.#free.splice(at, 1) as [Uint8Array];
    this.#held -= room.length;
    return room;
  }

  give(room: Uint8Array): void {
    if (this.#held + room.length > MOST) return;
    this.#free.push(room);
    this.#held += room.length;
  }
}

import type { Bytes } from './contracts.ts';

/** So many bytes are kept. */
const KEPT: Bytes = 16 * 2 ** 20;

/** Memory for bytes on their way to somewhere else. It is used again: new memory for each block costs as much as to decode it. */
export class Trays {
  readonly #free: ArrayBuffer[] = [];
  #held: Bytes = 0;

  /** Runs `use` with `length` bytes of any content, which are the next one's when it has succeeded. */
  async lend<T>(length: Bytes, use: (tray: Uint8Array<ArrayBuffer>) => Promise<T>): Promise<T> {
    const memory = this.#take(length);
    const result = await use(new Uint8Array(memory, 0, length));
    // What failed may still be written to by a part of the work.
    this.#give(memory);
    return result;
  }

  #take(length: Bytes): ArrayBuffer {
    const memory = this.#free.pop();
    if (memory === undefined) return new ArrayBuffer(length);
    this.#held -= memory.byteLength;
    return memory.byteLength < length ? new ArrayBuffer(length) : memory;
  }

  #give(memory: ArrayBuffer): void {
    if (this.#held + memory.byteLength > KEPT) return;
    this.#free.push(memory);
    this.#held += memory.byteLength;
  }
}

/** A check value of what a disk holds, however it is read: the same for the same bytes, in one pass and constant memory. */
import { type CipherGCM, createCipheriv, hash } from 'node:crypto';
import type { Bytes, Disk } from '../base/contracts.ts';
import { filledRuns } from '../base/range.ts';
import { type dataWindows, inLanes } from './sparse.ts';

/** Check values are made of stretches of this length, each by itself: at their ends a check can be stopped and continued. */
export const CHECK_WINDOW: Bytes = 2 ** 21;
/** What is all zero counts as not there, in blocks of this length. */
const BLOCK: Bytes = 65_536;
const BLOCKS = CHECK_WINDOW / BLOCK;

/**
 * GMAC (NIST SP 800-38D) is the fastest check that there is: several times as fast as a CRC where the processor has
 * instructions for it. What is looked for is a program or a medium that errs, so the key is no secret.
 */
const KEY = Buffer.alloc(16, 'bootmount');
const NONCE = Buffer.alloc(12);

/**
 * Stretches are added in ascending order; what lies between them counts as zeros. One that goes back makes the check
 * useless ('broken'): its value is null then.
 */
export class ContentCheck {
  #value: string;
  #broken = false;
  /** Number of the window that is being added to, and its blocks that are not zero. */
  #window = -1;
  #mac: CipherGCM | null = null;
  readonly #present = new Uint8Array(BLOCKS);
  /** End of what was added. */
  #end: Bytes;
  /** A block that came in parts. */
  readonly #partial = new Uint8Array(BLOCK);
  #partialAt: Bytes | null = null;

  /** Continues after `value()` and `end`, a multiple of CHECK_WINDOW. */
  constructor(value = '', end: Bytes = 0) {
    this.#value = value;
    this.#end = end;
  }

  add(data: Uint8Array, at: Bytes): void {
    if (at < this.#end) this.#broken = true;
    if (this.#broken) return;
    this.#end = at + data.length;
    for (let done = 0; done < data.length; ) {
      const within = (at + done) % BLOCK;
      const left = data.length - done;
      if (within > 0 || left < BLOCK) {
        const part = data.subarray(done, done + Math.min(left, BLOCK - within));
        this.#addPart(part, at + done);
        done += part.length;
        continue;
      }
      this.#endPart();
      const toWindowEnd = CHECK_WINDOW - ((at + done) % CHECK_WINDOW);
      const whole = Math.min(left - (left % BLOCK), toWindowEnd);
      this.#addBlocks(data.subarray(done, done + whole), at + done);
      done += whole;
    }
  }

  /** The value of everything that was added. null: it was not in order. */
  value(): string | null {
    if (this.#broken) return null;
    this.#endPart();
    this.#endWindow();
    return this.#value;
  }

  #addPart(part: Uint8Array, at: Bytes): void {
    const start = at - (at % BLOCK);
    if (this.#partialAt !== start) {
      this.#endPart();
      this.#partial.fill(0);
      this.#partialAt = start;
    }
    this.#partial.set(part, at - start);
  }

  #endPart(): void {
    if (this.#partialAt === null) return;
    const at = this.#partialAt;
    this.#partialAt = null;
    this.#addBlocks(this.#partial, at);
  }

  /** Whole blocks inside one window. */
  #addBlocks(data: Uint8Array, at: Bytes): void {
    const window = Math.floor(at / CHECK_WINDOW);
    if (window !== this.#window) {
      this.#endWindow();
      this.#window = window;
    }
    const first = at % CHECK_WINDOW;
    for (const [from, to] of filledRuns(data, BLOCK)) {
      this.#present.fill(1, (first + from) / BLOCK, (first + to) / BLOCK);
      this.#mac ??= createCipheriv('aes-128-gcm', KEY, NONCE);
      this.#mac.setAAD(data.subarray(from, to));
    }
  }

  #endWindow(): void {
    if (this.#mac === null) return;
    this.#mac.final();
    const tag = this.#mac.getAuthTag().toString('hex');
    this.#value = hash('sha256', `${this.#value} ${this.#window} ${this.#present.join('')} ${tag}`);
    this.#present.fill(0);
    this.#mac = null;
  }
}

/** The disk, with everything that is read of it added to the check. The disk stays its owner's. */
export const checkedDisk = (disk: Disk, check: ContentCheck): Disk => ({
  id: disk.id,
  size: disk.size,
  sectorSize: disk.sectorSize,
  extent: (at, limit) => disk.extent(at, limit),
  load: (at, limit) => disk.load(at, limit),
  read(into, at) {
    const done = disk.read(into, at);
    if (done === undefined) check.add(into, at);
    else return done.then(() => check.add(into, at));
  },
  async [Symbol.asyncDispose]() {},
});

/** Adds what `read` finds in windows of at most CHECK_WINDOW, as many at a time as there are buffers; `added` tells how far it came. */
export const addWindows = (
  check: ContentCheck,
  windows: ReturnType<typeof dataWindows>,
  buffers: readonly Uint8Array[],
  read: (into: Uint8Array, at: Bytes) => unknown,
  added: (end: Bytes) => void,
): Promise<void> =>
  inLanes(
    windows,
    buffers.length,
    async ({ at, length }, lane) => {
      const data = buffers[lane]!.subarray(0, length);
      await read(data, at);
      return { data, at };
    },
    ({ data, at }) => {
      check.add(data, at);
      added(at + data.length);
    },
  );

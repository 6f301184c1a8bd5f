/**
 * A load that may fail: random writes to a file, many at a time, which remembers what each sector may hold. An
 * acknowledged write has to be there; one that failed may have left any of its sectors old or new.
 */
import fs from 'node:fs';
import { seeded } from '../../src/overlay/overlay-model.ts';

const SECTOR = 512;
const BLOCK = 4096;
const MOST_BLOCKS = 16;

export class Blocks {
  readonly #fd: number;
  readonly #count: number;
  readonly #random: () => number;
  /** Version that was acknowledged last, by block; 0: never written. */
  readonly #acked: Uint32Array;
  /** Versions of writes that failed since then. */
  readonly #maybe = new Map<number, number[]>();
  readonly #busy: Uint8Array;
  #next = 1;
  /** Writes and reads that were done, and errors by their code. */
  done = 0;
  readonly errors = new Map<string, number>();

  /** `size`: bytes of the file that are used; they read as zeros at first. */
  constructor(fd: number, size: number, seed: number) {
    this.#fd = fd;
    this.#count = Math.floor(size / BLOCK);
    this.#random = seeded(seed);
    this.#acked = new Uint32Array(this.#count);
    this.#busy = new Uint8Array(this.#count);
  }

  /** The same knowledge about the same file, opened anew. */
  on(fd: number): Blocks {
    const other = new Blocks(fd, this.#count * BLOCK, this.#next);
    other.#acked.set(this.#acked);
    for (const [block, versions] of this.#maybe) other.#maybe.set(block, [...versions]);
    other.#next = this.#next;
    return other;
  }

  get failures(): number {
    return [...this.errors.values()].reduce((sum, n) => sum + n, 0);
  }

  /** Keeps `depth` operations going until `enough` says so. A read that finds what it must not throws. */
  async run(depth: number, enough: () => boolean): Promise<void> {
    await Promise.all(
      Array.from({ length: depth }, async () => {
        while (!enough()) await (this.#random() < 0.7 ? this.write() : this.check());
      }),
    );
  }

  async write(): Promise<void> {
    const [first, count] = this.#range();
    const version = this.#next++;
    const content = new Uint8Array(count * BLOCK);
    for (let i = 0; i < count; i++) fill(content.subarray(i * BLOCK, (i + 1) * BLOCK), first + i, version);
    this.#hold(first, count, 1);
    try {
      await writeAll(this.#fd, content, first * BLOCK);
      for (let block = first; block < first + count; block++) {
        this.#acked[block] = version;
        this.#maybe.delete(block);
      }
      this.done++;
    } catch (error) {
      for (let block = first; block < first + count; block++) {
        this.#maybe.set(block, [...(this.#maybe.get(block) ?? []), version]);
      }
      this.#failed(error);
    } finally {
      this.#hold(first, count, 0);
    }
  }

  /** Reads some blocks and compares. */
  async check(): Promise<void> {
    const [first, count] = this.#range();
    this.#hold(first, count, 1);
    try {
      await this.#checkRange(first, count);
      this.done++;
    } finally {
      this.#hold(first, count, 0);
    }
  }

  async checkAll(): Promise<number> {
    for (let first = 0; first < this.#count; first += 256)
      await this.#checkRange(first, Math.min(256, this.#count - first));
    return this.#acked.reduce((sum, version) => sum + (version > 0 ? 1 : 0), 0);
  }

  /** A write that fails counts; one that succeeds is durable. */
  async flush(): Promise<void> {
    try {
      await new Promise<void>((resolve, reject) => fs.fdatasync(this.#fd, e => (e === null ? resolve() : reject(e))));
    } catch (error) {
      const code = `flush ${(error as NodeJS.ErrnoException).code}`;
      this.errors.set(code, (this.errors.get(code) ?? 0) + 1);
    }
  }

  async #checkRange(first: number, count: number): Promise<void> {
    const found = new Uint8Array(count * BLOCK);
    try {
      await readAll(this.#fd, found, first * BLOCK);
    } catch (error) {
      this.#failed(error);
      return;
    }
    const wanted = new Uint8Array(BLOCK);
    for (let block = first; block < first + count; block++) {
      const open = new Set(Array.from({ length: BLOCK / SECTOR }, (_, i) => i));
      for (const version of [this.#acked[block]!, ...(this.#maybe.get(block) ?? [])]) {
        fill(wanted, block, version);
        for (const i of open) {
          const at = (block - first) * BLOCK + i * SECTOR;
          if (Buffer.compare(found.subarray(at, at + SECTOR), wanted.subarray(i * SECTOR, (i + 1) * SECTOR)) === 0)
            open.delete(i);
        }
      }
      if (open.size > 0) {
        const [i] = open;
        const view = new DataView(found.buffer, (block - first) * BLOCK + i! * SECTOR);
        throw new Error(
          `MISMATCH: block ${block}, sector ${i}: holds version ${view.getUint32(4)} of block ${view.getUint32(0)}, ` +
            `not ${[this.#acked[block], ...(this.#maybe.get(block) ?? [])].join(' or ')}`,
        );
      }
    }
  }

  /** Some blocks in a row that nobody works on. */
  #range(): [number, number] {
    for (;;) {
      const first = Math.floor(this.#random() * this.#count);
      const most = Math.min(1 + Math.floor(this.#random() * MOST_BLOCKS), this.#count - first);
      let count = 0;
      while (count < most && this.#busy[first + count] === 0) count++;
      if (count > 0) return [first, count];
    }
  }

  #hold(first: number, count: number, value: 0 | 1): void {
    this.#busy.fill(value, first, first + count);
  }

  #failed(error: unknown): void {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    this.errors.set(code, (this.errors.get(code) ?? 0) + 1);
  }
}

/** Every sector of a block is told apart from all others, and from zeros. */
function fill(block: Uint8Array, index: number, version: number): void {
  if (version === 0) return void block.fill(0);
  const view = new DataView(block.buffer, block.byteOffset);
  for (let at = 0; at < BLOCK; at += SECTOR) {
    block.fill((version * 31 + index + at / SECTOR) & 0xff, at, at + SECTOR);
    view.setUint32(at, index);
    view.setUint32(at + 4, version);
    view.setUint32(at + 8, at);
  }
}

function writeAll(fd: number, from: Uint8Array, at: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const step = (done: number): void =>
      fs.write(fd, from, done, from.length - done, at + done, (error, n) => {
        if (error !== null) reject(error);
        else if (done + n === from.length) resolve();
        else if (n === 0) reject(new Error('nothing written'));
        else step(done + n);
      });
    step(0);
  });
}

function readAll(fd: number, into: Uint8Array, at: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const step = (done: number): void =>
      fs.read(fd, into, done, into.length - done, at + done, (error, n) => {
        if (error !== null) reject(error);
        else if (done + n === into.length) resolve();
        else if (n === 0) reject(new Error('the file ends early'));
        else step(done + n);
      });
    step(0);
  });
}

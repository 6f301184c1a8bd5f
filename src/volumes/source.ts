/** The bytes of one volume: a stretch of a disk, with metadata kept in blocks of bounded number. */
import type { Bytes, Disk } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';

const BLOCK = 16_384;
/** Longer stretches are read past the cache: they are listings of huge folders or tables, used once. */
const LONGEST_KEPT = 131_072;
/** Blocks of one volume are numbered below this: 2^50 bytes. */
const BLOCKS = 2 ** 36;

/** Metadata blocks of all volumes together; the least recently used go first. */
export class MetadataCache {
  readonly #blocks = new Map<number, Promise<Buffer>>();
  readonly #most: number;
  #owners = 0;

  constructor(budget: Bytes) {
    this.#most = Math.max(16, Math.floor(budget / BLOCK));
  }

  register(): number {
    return this.#owners++;
  }

  /** Block `number` of a volume. Concurrent calls share the read; a failed one is not kept. */
  block(owner: number, number: number, read: () => Promise<Buffer>): Promise<Buffer> {
    const key = owner * BLOCKS + number;
    const kept = this.#blocks.get(key);
    if (kept !== undefined) {
      this.#blocks.delete(key);
      this.#blocks.set(key, kept);
      return kept;
    }
    const block = read();
    block.catch(() => this.#blocks.delete(key));
    this.#blocks.set(key, block);
    if (this.#blocks.size > this.#most) this.#blocks.delete(this.#blocks.keys().next().value!);
    return block;
  }
}

export interface VolumeSource {
  /** For messages: `disk0 p1`. */
  readonly name: string;
  readonly disk: Disk;
  /** Where the volume starts on the disk. */
  readonly start: Bytes;
  readonly size: Bytes;
  /** Metadata at an offset of the volume. The buffer is shared: it is not to be changed. */
  bytes(at: Bytes, length: number): Promise<Buffer>;
  /** How damage is found: false is 'corrupt', with the volume and the offset. */
  check(sound: boolean, what: string, at?: Bytes): void;
  /** The same for what may be missing. */
  need<T>(value: T | null | undefined, what: string, at?: Bytes): T;
  unsupported(what: string, at?: Bytes): ImageError;
}

export interface SourceSpec {
  readonly name: string;
  readonly disk: Disk;
  readonly start: Bytes;
  readonly size: Bytes;
  readonly cache: MetadataCache;
}

export function volumeSource({ name, disk, start, size, cache }: SourceSpec): VolumeSource {
  const owner = cache.register();
  const fault = (kind: 'corrupt' | 'unsupported', what: string, at?: Bytes): ImageError =>
    new ImageError(kind, what, at === undefined ? { file: name } : { file: name, at });
  const direct = async (at: Bytes, length: number): Promise<Buffer> => {
    const into = Buffer.allocUnsafeSlow(length);
    await disk.read(into, start + at);
    return into;
  };
  const block = (number: number): Promise<Buffer> =>
    cache.block(owner, number, () => direct(number * BLOCK, Math.min(BLOCK, size - number * BLOCK)));
  return {
    name,
    disk,
    start,
    size,
    async bytes(at, length) {
      if (!Number.isSafeInteger(at) || at < 0 || length < 0 || at + length > size) {
        throw fault('corrupt', `${length} bytes at ${at} are not inside the volume of ${size} bytes`, at);
      }
      if (length > LONGEST_KEPT || length === 0) return direct(at, length);
      const first = Math.floor(at / BLOCK);
      const last = Math.floor((at + length - 1) / BLOCK);
      const within = at - first * BLOCK;
      if (first === last) return (await block(first)).subarray(within, within + length);
      const whole = Buffer.allocUnsafe(length);
      for (let number = first, done = 0; number <= last; number++) {
        const from = number === first ? within : 0;
        done += (await block(number)).copy(whole, done, from);
      }
      return whole;
    },
    check(sound, what, at) {
      if (!sound) throw fault('corrupt', what, at);
    },
    need(value, what, at) {
      if (value === null || value === undefined) throw fault('corrupt', what, at);
      return value;
    },
    unsupported: (what, at) => fault('unsupported', what, at),
  };
}

/** A little-endian u64 as a number; NaN, which fails every check, beyond 2^53. */
export function u64(from: Buffer, at: number): number {
  const value = from.readUInt32LE(at + 4) * 0x1_0000_0000 + from.readUInt32LE(at);
  return Number.isSafeInteger(value) ? value : Number.NaN;
}

/** The same, big-endian. */
export function u64be(from: Buffer, at: number): number {
  const value = from.readUInt32BE(at) * 0x1_0000_0000 + from.readUInt32BE(at + 4);
  return Number.isSafeInteger(value) ? value : Number.NaN;
}

/** A time from milliseconds; what no Date can hold is the epoch. */
export function dateOf(ms: number): Date {
  const date = new Date(ms);
  return Number.isNaN(date.getTime()) ? new Date(0) : date;
}

/**
 * The content of a file: what is stored plainly is read from the disk here, straight into the caller's buffer; only
 * what must be unpacked comes from the parser child.
 */
import type { Bytes, Disk, Done } from '../base/contracts.ts';
import { inParts } from '../base/done.ts';
import { ImageError } from '../base/errors.ts';
import { lastAtOrBefore } from '../base/range.ts';
import type { Parser } from './parser.ts';
import { type NodePath, RANGE_WORDS, type RangesRecord, STORED } from './protocol.ts';

export interface FileContent {
  readonly size: Bytes;
  /** Fills `into`; the range lies inside the file. On an error `into` is not to be used. */
  read(into: Uint8Array, at: Bytes): Done;
  /** First data (or hole) at or after `at`; null: none until the end, which counts as a hole. */
  seek(at: Bytes, want: 'data' | 'hole'): Bytes | null | Promise<Bytes | null>;
  /** What lies at `at`, and for how long. */
  rangeAt(at: Bytes): Promise<StoredRange>;
}

export interface StoredRange {
  readonly length: Bytes;
  /** Index of the disk, or -1 for zeros and -2 for what is packed. */
  readonly disk: number;
  readonly at: Bytes;
}

/** Ranges that are in memory: where each starts in the file, and the table as it came. */
interface Window {
  readonly from: Bytes;
  readonly end: Bytes;
  readonly starts: Float64Array;
  readonly table: Float64Array;
}

function windowOf({ table }: RangesRecord, from: Bytes): Window {
  const starts = new Float64Array(table.length / RANGE_WORDS);
  let end = from;
  for (let i = 0; i < starts.length; i++) {
    starts[i] = end;
    end += table[RANGE_WORDS * i]!;
  }
  return { from, end, starts, table };
}

/** A message over the channel is copied several times: longer reads of packed data go in parts. */
const LONGEST_UNPACKED = 1_048_576;

/** `known`: the first ranges, where they are known. */
export async function openContent(
  parser: Parser,
  disks: readonly Disk[],
  node: NodePath,
  known: RangesRecord | null,
): Promise<FileContent> {
  const ask = (from: Bytes): Promise<RangesRecord> =>
    parser.ask({ op: 'ranges', ...node, from }) as Promise<RangesRecord>;
  const first = known ?? (await ask(0));
  return new Content(
    first,
    ask,
    disks,
    (from, length) => parser.ask({ op: 'read', ...node, from, length }) as Promise<Uint8Array>,
  );
}

class Content implements FileContent {
  readonly size: Bytes;
  readonly #ask: (from: Bytes) => Promise<RangesRecord>;
  readonly #disks: readonly Disk[];
  readonly #unpack: (from: Bytes, length: number) => Promise<Uint8Array>;
  #window: Window;
  /** Most reads go on where the last one was. */
  #recent = 0;

  constructor(
    first: RangesRecord,
    ask: (from: Bytes) => Promise<RangesRecord>,
    disks: readonly Disk[],
    unpack: (from: Bytes, length: number) => Promise<Uint8Array>,
  ) {
    this.size = first.size;
    this.#ask = ask;
    this.#disks = disks;
    this.#unpack = unpack;
    this.#window = windowOf(first, 0);
  }

  /** Index of the range that holds `at`; null: its window has to be loaded. */
  #find(at: Bytes): number | null {
    const { from, end, starts } = this.#window;
    if (at < from || at >= end) return null;
    for (const index of [this.#recent, this.#recent + 1]) {
      if (at >= starts[index]! && at < (starts[index + 1] ?? end)) {
        this.#recent = index;
        return index;
      }
    }
    this.#recent = lastAtOrBefore(starts, at);
    return this.#recent;
  }

  async #load(at: Bytes): Promise<void> {
    const loaded = windowOf(await this.#ask(at), at);
    if (at >= loaded.end) throw new ImageError('corrupt', 'the file ends before its size', { at });
    this.#window = loaded;
    this.#recent = 0;
  }

  #range(index: number, at: Bytes): StoredRange {
    const { starts, table } = this.#window;
    const within = at - starts[index]!;
    const word = RANGE_WORDS * index;
    return { length: table[word]! - within, disk: table[word + 1]!, at: table[word + 2]! + within };
  }

  read(into: Uint8Array, at: Bytes): Done {
    return inParts(into.length, (done, wait) => {
      const from = at + done;
      const index = this.#find(from);
      if (index === null) {
        wait(this.#load(from).then(() => this.read(into.subarray(done), from)));
        return into.length;
      }
      const { length, disk, at: place } = this.#range(index, from);
      const target = into.subarray(done, done + length);
      wait(this.#part(target, from, disk, place));
      return done + target.length;
    });
  }

  #part(target: Uint8Array, at: Bytes, disk: number, place: Bytes): Done {
    if (disk === STORED.zero) return void target.fill(0);
    if (disk === STORED.packed) return this.#unpacked(target, at);
    const its = this.#disks[disk];
    if (its === undefined) throw new ImageError('corrupt', `a range of disk ${disk}, which there is not`);
    return its.read(target, place);
  }

  async #unpacked(target: Uint8Array, at: Bytes): Promise<void> {
    for (let done = 0; done < target.length; ) {
      const length = Math.min(LONGEST_UNPACKED, target.length - done);
      const data = await this.#unpack(at + done, length);
      if (data.length !== length) throw new ImageError('corrupt', 'the file is shorter than it says', { at });
      target.set(data, done);
      done += length;
    }
  }

  async rangeAt(at: Bytes): Promise<StoredRange> {
    let index = this.#find(at);
    while (index === null) {
      await this.#load(at);
      index = this.#find(at);
    }
    return this.#range(index, at);
  }

  async seek(at: Bytes, want: 'data' | 'hole'): Promise<Bytes | null> {
    for (let from = at; from < this.size; ) {
      const part = await this.rangeAt(from);
      if ((part.disk === STORED.zero) === (want === 'hole')) return from;
      from += part.length;
    }
    return want === 'hole' && at < this.size ? this.size : null;
  }
}

/** Contents of files: runs of the disk, bytes in memory, and units that are unpacked. */
import type { Bytes, Done } from '../base/contracts.ts';
import { inParts } from '../base/done.ts';
import { ImageError } from '../base/errors.ts';
import type { FileContent, FileRange } from './contracts.ts';
import type { Runs } from './runs.ts';
import type { VolumeSource } from './source.ts';

export function bytesContent(bytes: Uint8Array): FileContent {
  return {
    size: bytes.length,
    range: (_at, limit) => ({ kind: 'packed', length: limit }),
    read: (into, at) => into.set(bytes.subarray(at, at + into.length)),
  };
}

/**
 * A file of runs. `valid`: from there on the file reads as zeros, whatever its runs hold. Reads go to the disk
 * straight, into the caller's buffer.
 */
export function runsContent(source: VolumeSource, runs: Runs, size: Bytes, valid: Bytes = size): FileContent {
  // Most reads go on where the last one was.
  let recent = -1;
  const runBefore = (at: Bytes): number => {
    for (const index of [recent, recent + 1]) {
      if (index < 0 || index >= runs.count) continue;
      const { fileAt, length } = runs.run(index);
      if (at >= fileAt && at < fileAt + length) {
        recent = index;
        return index;
      }
    }
    recent = runs.find(at);
    return recent;
  };
  const range = (at: Bytes, limit: Bytes): FileRange => {
    if (at >= valid) return { kind: 'zero', length: limit };
    const most = Math.min(limit, valid - at);
    const index = runBefore(at);
    if (index >= 0) {
      const run = runs.run(index);
      const within = at - run.fileAt;
      if (within < run.length) {
        const length = Math.min(most, run.length - within);
        return run.at < 0 ? { kind: 'zero', length } : { kind: 'disk', at: source.start + run.at + within, length };
      }
    }
    const next = index + 1 < runs.count ? runs.run(index + 1).fileAt : Number.MAX_SAFE_INTEGER;
    return { kind: 'zero', length: Math.min(most, next - at) };
  };
  const read = (into: Uint8Array, at: Bytes): Done => {
    return inParts(into.length, (done, wait) => {
      const part = range(at + done, into.length - done);
      const target = into.subarray(done, done + part.length);
      if (part.kind === 'disk') wait(source.disk.read(target, part.at));
      else target.fill(0);
      return done + part.length;
    });
  };
  return { size, range, read };
}

/** Unpacked units of one open file that stay in memory. */
const UNITS_KEPT = 4;

export interface UnitsSpec {
  readonly size: Bytes;
  readonly unitSize: number;
  /** The unit's bytes, `unitSize` or, for the last one, what is left. */
  unit(index: number): Promise<Uint8Array>;
  /** What is known without unpacking. */
  range?(at: Bytes, limit: Bytes): FileRange;
}

/** A file of units that are stored apart from each other, compressed. Concurrent reads of one unit share the work. */
export function unitsContent({ size, unitSize, unit, range }: UnitsSpec): FileContent {
  const kept = new Map<number, Promise<Uint8Array>>();
  const one = (index: number): Promise<Uint8Array> => {
    const known = kept.get(index);
    if (known !== undefined) return known;
    const made = unit(index);
    made.catch(() => kept.delete(index));
    kept.set(index, made);
    if (kept.size > UNITS_KEPT) kept.delete(kept.keys().next().value!);
    return made;
  };
  return {
    size,
    range: range ?? ((_at, limit) => ({ kind: 'packed', length: limit })),
    async read(into, at) {
      for (let done = 0; done < into.length; ) {
        const index = Math.floor((at + done) / unitSize);
        const within = at + done - index * unitSize;
        const data = await one(index);
        const length = Math.min(into.length - done, data.length - within);
        if (length <= 0) throw new ImageError('corrupt', 'a compressed unit is shorter than the file says', { at });
        into.set(data.subarray(within, within + length), done);
        done += length;
      }
    },
  };
}

/** All of a small file. 'corrupt' when it is larger than what is asked for is ever. */
export async function wholeOf(source: VolumeSource, content: FileContent, most: number): Promise<Buffer> {
  source.check(content.size <= most, `${content.size} bytes where ${most} are the most`);
  const into = Buffer.allocUnsafe(content.size);
  await content.read(into, 0);
  return into;
}

/** First data (or hole) at or after `at`; null: none until the end, which counts as a hole. */
export function contentSeek(content: FileContent, at: Bytes, want: 'data' | 'hole'): Bytes | null {
  for (let from = at; from < content.size; ) {
    const part = content.range(from, content.size - from);
    if ((part.kind === 'zero') === (want === 'hole')) return from;
    from += part.length;
  }
  return want === 'hole' && at < content.size ? content.size : null;
}

/** Walking disks without touching what is known to be zero, with several windows under way and bounded memory. */
import type { Bytes, Disk, Extent, Extents } from '../base/contracts.ts';
import { roundDown, roundUp } from '../base/range.ts';
import { sharedBytes } from '../base/shared-bytes.ts';

/** The extent at `at`; past the disk's end everything is zero. */
export async function extentAt(disk: Extents, at: Bytes, limit: Bytes): Promise<Extent> {
  if (at >= disk.size) return { kind: 'zero', length: limit };
  const inside = Math.min(limit, disk.size - at);
  for (;;) {
    const found = disk.extent(at, inside);
    if (found !== null) return found;
    await disk.load(at, inside);
  }
}

/** First offset in [at, end) where one of the disks may hold data; `end` when there is none. */
export async function nextData(disks: readonly Extents[], at: Bytes, end: Bytes): Promise<Bytes> {
  while (at < end) {
    let length = end - at;
    for (const disk of disks) {
      const extent = await extentAt(disk, at, length);
      if (extent.kind === 'data') return at;
      length = Math.min(length, extent.length);
    }
    at += length;
  }
  return end;
}

/** Fills `into` from `at`, reading data extents only; past the disk's end zeros. Returns how many bytes were read. */
export async function readSparse(disk: Disk, into: Uint8Array, at: Bytes): Promise<Bytes> {
  let read = 0;
  for (let done = 0; done < into.length; ) {
    const extent = await extentAt(disk, at + done, into.length - done);
    const part = into.subarray(done, done + extent.length);
    if (extent.kind === 'zero') {
      part.fill(0);
    } else {
      await disk.read(part, at + done);
      read += part.length;
    }
    done += extent.length;
  }
  return read;
}

/** Runs of zeros of this length, where they begin at a multiple of it, become holes. */
export const HOLE: Bytes = 65_536;

/**
 * Fills `into` from `at` (a multiple of HOLE), but for whole blocks of HOLE bytes that are known to be zeros; gives the
 * stretches between those.
 */
export async function readBlocks(disk: Disk, into: Uint8Array, at: Bytes): Promise<readonly Window[]> {
  const filled: Window[] = [];
  let from = 0;
  const fillTo = (end: Bytes): void => {
    if (end > from) filled.push({ at: from, length: end - from });
  };
  for (let done = 0; done < into.length; ) {
    const extent = await extentAt(disk, at + done, into.length - done);
    const end = done + extent.length;
    if (extent.kind === 'data') await disk.read(into.subarray(done, end), at + done);
    else {
      const holeAt = Math.min(roundUp(done, HOLE), end);
      const holeEnd = end === into.length ? end : Math.max(holeAt, roundDown(end, HOLE));
      into.fill(0, done, holeAt).fill(0, holeEnd, end);
      if (holeEnd > holeAt) {
        fillTo(holeAt);
        from = holeEnd;
      }
    }
    done = end;
  }
  fillTo(into.length);
  return filled;
}

export interface Window {
  readonly at: Bytes;
  readonly length: Bytes;
}

/** The windows of a fixed grid, from `from` on, in which one of the disks may hold data. */
export async function* dataWindows(
  disks: readonly Extents[],
  step: Bytes,
  from: Bytes,
  end: Bytes,
  signal: AbortSignal,
): AsyncGenerator<Window> {
  for (let at = from; ; ) {
    signal.throwIfAborted();
    at = await nextData(disks, at, end);
    if (at >= end) return;
    at = roundDown(at, step);
    const length = Math.min(step, end - at);
    yield { at, length };
    at += length;
  }
}

/**
 * Runs `work` with at most `lanes` items at a time; results are taken in order. `lane` is free for reuse (a buffer each)
 * when the item that had it was taken. After an error nothing new starts, and it is thrown once all that runs has ended.
 */
export async function inLanes<T, R>(
  items: AsyncIterable<T>,
  lanes: number,
  work: (item: T, lane: number) => Promise<R>,
  take: (result: R) => Promise<void> | void,
): Promise<void> {
  const running: Promise<R>[] = [];
  try {
    let n = 0;
    for await (const item of items) {
      if (running.length === lanes) await take(await running.shift()!);
      const result = work(item, n++ % lanes);
      // Looked at when its turn comes; until then a failure is not an unhandled one.
      result.catch(() => {});
      running.push(result);
    }
    for (let next = running.shift(); next !== undefined; next = running.shift()) await take(await next);
  } finally {
    await Promise.allSettled(running);
  }
}

const COMPARE_WINDOW = 2 ** 20;
const COMPARE_LANES = 4;

export interface Watch {
  readonly signal: AbortSignal;
  progress(done: Bytes, total: Bytes): void;
}

/** Offset of the first byte at which the disks differ; null when they are equal. The shorter one counts as continued by zeros. */
export async function firstDifference(a: Disk, b: Disk, watch: Watch): Promise<Bytes | null> {
  const end = Math.max(a.size, b.size);
  const buffers = Array.from({ length: COMPARE_LANES * 2 }, () => sharedBytes(Math.min(COMPARE_WINDOW, end)));
  let difference: Bytes | null = null;
  const stop = new AbortController();
  const windows = dataWindows([a, b], COMPARE_WINDOW, 0, end, AbortSignal.any([watch.signal, stop.signal]));
  try {
    await inLanes(
      windows,
      COMPARE_LANES,
      async ({ at, length }, lane) => {
        const left = buffers[lane * 2]!.subarray(0, length);
        const right = buffers[lane * 2 + 1]!.subarray(0, length);
        await Promise.all([readSparse(a, left, at), readSparse(b, right, at)]);
        const same = Buffer.compare(left, right) === 0;
        return { end: at + length, differs: same ? null : at + left.findIndex((byte, i) => byte !== right[i]) };
      },
      result => {
        difference ??= result.differs;
        if (difference !== null) stop.abort();
        watch.progress(result.end, end);
      },
    );
  } catch (error) {
    if (!stop.signal.aborted || watch.signal.aborted) throw error;
  }
  return difference;
}

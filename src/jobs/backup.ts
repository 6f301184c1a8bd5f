/** Backup: disks into one new layer, whole or as what changed since the parent point. */
import type { Bytes, Disk, Extents, LayerId, LayerWriter } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { isZero } from '../base/range.ts';
import { sharedBytes } from '../base/shared-bytes.ts';
import { dataWindows, extentAt, inLanes, readSparse, type Watch, type Window } from './sparse.ts';

export interface BackupSpec extends Watch {
  readonly sources: readonly Disk[];
  /** The parent point's disks, read through its chain, in the same order; null where there is none: the disk is stored whole. */
  readonly parents: readonly (Disk | null)[];
  /** Committed at the end, and only then. It stays the caller's to dispose. */
  readonly writer: LayerWriter;
  readonly blockSize: Bytes;
  /** Called when all is read; what it throws is thrown, and the layer does not exist then. */
  beforeCommit?(): Promise<void>;
}

export interface BackupResult {
  readonly id: LayerId;
  /** Bytes read from the sources. */
  readonly read: Bytes;
  /** Bytes that went into the layer. */
  readonly stored: Bytes;
  /** Blocks stored as data. */
  readonly changed: number;
  /** Blocks that the parent has and that are zeros now. */
  readonly zeroed: number;
}

/** So much of each disk is looked at in one go, by so many lanes: the job holds twice their product in memory. */
const WINDOW = 2 ** 20;
const LANES = 4;

interface Counts {
  read: Bytes;
  changed: number;
  zeroed: number;
}

/** Throws what reading or writing throws, and the signal's reason; the layer does not exist then. */
export async function backup(spec: BackupSpec): Promise<BackupResult> {
  const { sources, blockSize, writer } = spec;
  if (!Number.isSafeInteger(blockSize) || blockSize <= 0) {
    throw new ImageError('usage', `${blockSize} is not a block size`);
  }
  const total = sources.reduce((sum, disk) => sum + disk.size, 0);
  const counts: Counts = { read: 0, changed: 0, zeroed: 0 };
  let before = 0;
  for (const [number, source] of sources.entries()) {
    const copied = (to: Bytes): void => spec.progress(before + to, total);
    await copyDisk(spec, number, source, counts, copied);
    before += source.size;
    spec.progress(before, total);
  }
  await spec.beforeCommit?.();
  spec.signal.throwIfAborted();
  const id = await writer.commit();
  return { id, ...counts, stored: writer.stored };
}

async function copyDisk(
  spec: BackupSpec,
  number: number,
  source: Disk,
  counts: Counts,
  copied: (to: Bytes) => void,
): Promise<void> {
  const parent = spec.parents[number] ?? null;
  const step = Math.max(1, Math.floor(WINDOW / spec.blockSize)) * spec.blockSize;
  const length = Math.min(step, source.size);
  const buffers = Array.from({ length: LANES }, () => new Uint8Array(length));
  const theirs = Array.from({ length: parent === null ? 0 : LANES }, () => sharedBytes(length));
  const looked = parent !== null ? [source, parent] : spec.writer.dense === true ? [everywhere(source)] : [source];
  const windows = dataWindows(looked, step, 0, source.size, spec.signal);
  await inLanes(
    windows,
    LANES,
    async (window, lane) => {
      const data = buffers[lane]!.subarray(0, window.length);
      const read = await readSparse(source, data, window.at);
      const held = parent === null ? null : { disk: parent, buffer: theirs[lane]! };
      await storeWindow(spec, number, window, data, held, counts);
      return { read, end: window.at + window.length };
    },
    ({ read, end }) => {
      counts.read += read;
      copied(end);
    },
  );
}

/** The disk as if it had no holes. */
const everywhere = (disk: Disk): Extents => ({
  size: disk.size,
  sectorSize: disk.sectorSize,
  extent: (_at, limit) => ({ kind: 'data', length: limit }),
  load: async () => {},
});

/** What is there already, and memory to read a window of it. */
interface Held {
  readonly disk: Disk;
  readonly buffer: Uint8Array;
}

/** Puts the blocks of a window that differ from the parent. All of them are settled when it ends, as they share `data`. */
async function storeWindow(
  spec: BackupSpec,
  number: number,
  window: Window,
  data: Uint8Array,
  parent: Held | null,
  counts: Counts,
): Promise<void> {
  const { blockSize, writer } = spec;
  const theirs = (within: Bytes, length: Bytes): Uint8Array => parent!.buffer.subarray(within, within + length);
  const storeBlock = async (within: Bytes): Promise<void> => {
    const at = window.at + within;
    const block = data.subarray(within, within + blockSize);
    if (isZero(block)) {
      if (writer.dense === true) {
        if (parent !== null && (await holds(parent.disk, at, block, theirs(within, block.length)))) return;
      } else if (parent === null || (await knownZero(parent.disk, at, block.length))) return;
      if (parent !== null) counts.zeroed++;
      await writer.write(number, at / blockSize, 'zero');
    } else if (parent === null || !(await holds(parent.disk, at, block, theirs(within, block.length)))) {
      counts.changed++;
      await writer.write(number, at / blockSize, block);
    }
  };
  const blocks: Promise<void>[] = [];
  for (let within = 0; within < data.length; within += blockSize) blocks.push(storeBlock(within));
  const ends = await Promise.allSettled(blocks);
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
}

async function knownZero(disk: Disk, at: Bytes, length: Bytes): Promise<boolean> {
  const extent = await extentAt(disk, at, length);
  if (extent.kind === 'data') return false;
  return extent.length >= length || knownZero(disk, at + extent.length, length - extent.length);
}

/** Whether the disk reads as `block` there; `its` is as long, for what it does read as. */
async function holds(disk: Disk, at: Bytes, block: Uint8Array, its: Uint8Array): Promise<boolean> {
  // Data is wanted here, so a place that is known to be zero differs without a read.
  if (await knownZero(disk, at, block.length)) return false;
  await readSparse(disk, its, at);
  return Buffer.compare(its, block) === 0;
}

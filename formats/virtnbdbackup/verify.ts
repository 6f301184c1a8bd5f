/** Checks of one backup: the checksum beside each file, its frames, and what is packed. */

import { adler32 } from '../../src/base/checksum.ts';
import type { Bytes, Store, Verified, VerifyRun } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { decodeFrame } from '../../src/base/packing/lz4.ts';
import { readText } from './names.ts';
import type { DataDisk } from './read.ts';

const PART: Bytes = 2 ** 20;

interface Walk {
  /** Disks of which every byte was read. */
  readonly read: Set<DataDisk>;
  readonly run: VerifyRun;
  readonly store: Store;
  readonly total: Bytes;
  done: Bytes;
  checked: number;
  bytes: Bytes;
}

function report(walk: Walk, error: unknown, { file, name }: DataDisk): void {
  if (!(error instanceof ImageError)) throw error;
  const { fault, message, where } = error;
  walk.run.found({ fault, message, file: where.file ?? file, offset: where.at ?? 0, disk: name });
}

/** Adler-32 of the whole file, where a number stands beside it; some versions of the product write none there. */
async function checkSum(walk: Walk, disk: DataDisk): Promise<void> {
  const text = (await readText(walk.store, `${disk.file}.chksum`))?.trim() ?? '';
  if (!/^\d{1,10}$/.test(text)) return;
  const part = new Uint8Array(PART);
  let sum = 1;
  for (let at = 0; at < disk.stored; ) {
    walk.run.signal.throwIfAborted();
    const some = part.subarray(0, Math.min(PART, disk.stored - at));
    await disk.source.read(some, at);
    sum = adler32(some, sum);
    at += some.length;
    walk.run.progress(walk.done + at, walk.total);
    await new Promise<void>(resolve => setImmediate(resolve));
  }
  walk.bytes += disk.stored;
  walk.checked++;
  walk.read.add(disk);
  if (sum === Number(text)) return;
  const message = `the file has the Adler-32 ${sum}, the backup noted ${text}`;
  throw new ImageError('corrupt', message, { file: disk.file, at: 0 });
}

async function attempt(walk: Walk, disk: DataDisk, check: () => Promise<void>): Promise<void> {
  try {
    await check();
  } catch (error) {
    report(walk, error, disk);
  }
}

async function checkFrames(walk: Walk, disk: DataDisk): Promise<void> {
  if (disk.stream === null) return;
  const { extents, damage } = await disk.stream.index();
  walk.checked += extents.length;
  if (damage !== null) throw damage;
}

/** Unpacks every LZ4 frame: the checksums of its blocks and of its content must hold. */
async function checkPacked(walk: Walk, disk: DataDisk): Promise<void> {
  const { extents } = await disk.stream!.index();
  for (let i = 0; i < extents.length; i++) {
    walk.run.signal.throwIfAborted();
    const { fileAt, stored, length } = extents.at(i);
    if (fileAt < 0) continue;
    try {
      await decodeFrame({ source: disk.source, at: fileAt, length: stored, content: length }, null, () => true);
    } catch (error) {
      report(walk, error, disk);
    }
    walk.checked++;
    walk.bytes += stored;
  }
  walk.read.add(disk);
}

/** Level 1: checksums of the files, where there are any. Level 2: their frames too. Level 3: unpacks everything. */
export async function verifyBackup(disks: readonly DataDisk[], store: Store, run: VerifyRun): Promise<Verified> {
  const total = disks.reduce((sum, { stored }) => sum + stored, 0);
  const walk: Walk = { run, store, total, done: 0, checked: 0, bytes: 0, read: new Set() };
  for (const disk of disks) {
    await attempt(walk, disk, () => checkSum(walk, disk));
    if (run.level >= 2) await attempt(walk, disk, () => checkFrames(walk, disk));
    if (run.level >= 3 && disk.meta?.compressed === true) await attempt(walk, disk, () => checkPacked(walk, disk));
    walk.done += disk.stored;
    run.progress(walk.done, total);
  }
  const whole = run.level === 3 && disks.every(disk => walk.read.has(disk));
  return { checked: walk.checked, bytes: walk.bytes, whole };
}

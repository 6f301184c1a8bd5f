/** Whether files of two points of one chain are the same: what the layers say is unchanged is not read. */
import type { Bytes } from '../base/contracts.ts';
import { type Changed, type Changes, changesBetween } from '../chain/changes.ts';
import type { RestorePoint } from '../chain/point.ts';
import type { FileContent, StoredRange } from './content.ts';
import type { PointNode } from './point-files.ts';
import { STORED } from './protocol.ts';

/** By disk; null: nothing is known of how the two points differ. */
export type DiskChanges = readonly (Changes | null)[];

/** Disks are the same ones when they have the same place and name. */
export const changesOf = (a: RestorePoint, b: RestorePoint): DiskChanges =>
  a.disks.map(({ name }, index) => (b.disks[index]?.name === name ? changesBetween(a, b, index) : null));

export interface DiskStretch {
  readonly disk: number;
  readonly at: Bytes;
  readonly length: Bytes;
}

/** Whether none of the stretches can differ. */
export async function unchanged(changes: DiskChanges, stretches: Iterable<DiskStretch>): Promise<boolean> {
  for (const { disk, at, length } of stretches) {
    const its = changes[disk] ?? null;
    if (its === null) return false;
    for (let done = 0; done < length; ) {
      const stretch = await its.at(at + done, length - done);
      if (stretch.changed) return false;
      done += stretch.length;
    }
  }
  return true;
}

const PART = 1_048_576;

/** What is known without reading. */
async function known(a: StoredRange, b: StoredRange, limit: Bytes, changes: DiskChanges): Promise<Changed> {
  const unknown = { changed: true, length: limit };
  if (a.disk !== b.disk || a.disk === STORED.packed) return unknown;
  if (a.disk === STORED.zero) return { changed: false, length: limit };
  return a.at === b.at ? ((await changes[a.disk]?.at(a.at, limit)) ?? unknown) : unknown;
}

async function sameBytes(a: FileContent, b: FileContent, at: Bytes, end: Bytes, signal: AbortSignal): Promise<boolean> {
  for (let from = at; from < end; from += PART) {
    signal.throwIfAborted();
    const one = new Uint8Array(Math.min(PART, end - from));
    const other = new Uint8Array(one.length);
    await a.read(one, from);
    await b.read(other, from);
    if (Buffer.compare(one, other) !== 0) return false;
  }
  return true;
}

/** Compares two files; what may differ is read in both, up to the first difference. */
export async function sameContent(
  a: FileContent,
  b: FileContent,
  changes: DiskChanges,
  signal: AbortSignal,
): Promise<boolean> {
  if (a.size !== b.size) return false;
  for (let at = 0; at < a.size; ) {
    const [ours, theirs] = [await a.rangeAt(at), await b.rangeAt(at)];
    const { changed, length } = await known(ours, theirs, Math.min(ours.length, theirs.length), changes);
    if (changed && !(await sameBytes(a, b, at, at + length, signal))) return false;
    at += length;
  }
  return true;
}

/** Everything but the content. */
export function sameAttributes(a: PointNode, b: PointNode): boolean {
  if (a.kind !== b.kind || a.mode !== b.mode || a.uid !== b.uid || a.gid !== b.gid) return false;
  if (a.mtime.getTime() !== b.mtime.getTime()) return false;
  if (a.kind === 'file') return b.kind === 'file' && a.size === b.size;
  return a.kind !== 'link' || (b.kind === 'link' && a.target === b.target);
}

/** Whether files of two points of one chain are the same: what the layers say is unchanged is not read. */
import type { Bytes } from '../base/contracts.ts';
import type { Changes } from '../chain/changes.ts';
import type { FileContent, StoredRange } from './content.ts';
import type { PointNode } from './point-files.ts';
import { STORED } from './protocol.ts';

/** By disk; null: nothing is known of how the two points differ. */
export type DiskChanges = readonly (Changes | null)[];

export interface DiskStretch {
  readonly disk: number;
  readonly at: Bytes;
  readonly length: Bytes;
}

/** Whether none of the stretches can differ. */
export async function unchanged(changes: DiskChanges, stretches: Iterable<DiskStretch>): Promise<boolean> {
  for (const { disk, at, length } of stretches) {
    const its = changes[disk] ?? null;
    if (its === null || (await its.changed(at, length))) return false;
  }
  return true;
}

const PART = 1_048_576;

async function samePlace(a: StoredRange, b: StoredRange, length: Bytes, changes: DiskChanges): Promise<boolean> {
  if (a.disk !== b.disk || a.disk === STORED.packed) return false;
  return a.disk === STORED.zero || (a.at === b.at && unchanged(changes, [{ disk: a.disk, at: a.at, length }]));
}

/** Compares two files of the same size; what differs is found by reading both, up to the first difference. */
export async function sameContent(
  a: FileContent,
  b: FileContent,
  changes: DiskChanges,
  signal: AbortSignal,
): Promise<boolean> {
  if (a.size !== b.size) return false;
  for (let at = 0; at < a.size; ) {
    const [ours, theirs] = [await a.rangeAt(at), await b.rangeAt(at)];
    const length = Math.min(ours.length, theirs.length, a.size - at);
    const end = at + length;
    if (!(await samePlace(ours, theirs, length, changes))) {
      for (let from = at; from < end; from += PART) {
        signal.throwIfAborted();
        const one = new Uint8Array(Math.min(PART, end - from));
        const other = new Uint8Array(one.length);
        await a.read(one, from);
        await b.read(other, from);
        if (Buffer.compare(one, other) !== 0) return false;
      }
    }
    at = end;
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

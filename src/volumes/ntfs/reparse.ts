/** Reparse points: links of all kinds, and files that another layer keeps. Source: [MS-FSCC] 2.1.2. */
import { nameOf } from '../names.ts';
import type { VolumeSource } from '../source.ts';
import type { Ntfs } from './filesystem.ts';
import { type Record, TYPE } from './records.ts';

export const TAG = {
  mountPoint: 0xa000_0003,
  symlink: 0xa000_000c,
  wslSymlink: 0xa000_001d,
  /** Compressed by the system ("CompactOS"). */
  wof: 0x8000_0017,
  deduplicated: 0x8000_0013,
} as const;

export interface Reparse {
  readonly tag: number;
  readonly data: Buffer;
}

const LONGEST = 16_384;

export async function readReparse(ntfs: Ntfs, record: Record): Promise<Reparse | null> {
  const attribute = await ntfs.attribute(record, TYPE.reparse, '');
  if (attribute === null) return null;
  const bytes = await ntfs.value(attribute, LONGEST);
  ntfs.source.check(bytes.length >= 8, 'a reparse point is too short');
  return { tag: bytes.readUInt32LE(0), data: bytes.subarray(8) };
}

export const isLink = (tag: number): boolean => tag === TAG.symlink || tag === TAG.mountPoint || tag === TAG.wslSymlink;

/** The target with `/` between names; `C:/Users` where it names a drive. */
export function linkTarget(source: VolumeSource, { tag, data }: Reparse): string {
  if (tag === TAG.wslSymlink) return nameOf(data.subarray(4));
  const head = tag === TAG.symlink ? 12 : 8;
  const text = (at: number): string => {
    const from = head + data.readUInt16LE(at);
    const length = data.readUInt16LE(at + 2);
    source.check(from + length <= data.length, 'the target of a link leads outside it');
    return data.toString('utf16le', from, from + length);
  };
  // The name for people is absent now and then; the other one begins with a prefix of the object manager.
  const target = text(4) || text(0).replace(/^\\\?\?\\/, '');
  return target.replaceAll('\\', '/');
}

/** One name in a folder, down its B-tree, which is in the order of the names in capitals. Source: libfsntfs, "The index". */
import type { Ntfs } from './filesystem.ts';

const LAST = 2;
const HAS_CHILD = 1;
const DEEPEST = 32;

/** The volume's own table of capitals: a word for each unit of UTF-16. */
export type Capitals = Uint16Array;

function compare(capitals: Capitals, a: string, key: Buffer, length: number): number {
  const shorter = Math.min(a.length, length);
  for (let i = 0; i < shorter; i++) {
    const difference = capitals[a.charCodeAt(i)]! - capitals[key.readUInt16LE(66 + i * 2)]!;
    if (difference !== 0) return difference;
  }
  return a.length - length;
}

/**
 * The node that holds all entries whose names are the same in capitals; null: there is none. `child` reads the node
 * with a number.
 */
export async function nodeWith(
  { source }: Ntfs,
  capitals: Capitals,
  name: string,
  root: Buffer,
  child: (number: number) => Promise<Buffer>,
): Promise<Buffer | null> {
  let node = root;
  for (let depth = 0; ; depth++) {
    source.check(depth < DEEPEST, 'the index of a folder has a loop');
    const end = node.readUInt32LE(4);
    source.check(end <= node.length, 'an index node is too long');
    let next: number | null = null;
    for (let at = node.readUInt32LE(0); ; ) {
      source.check(at + 16 <= end, 'an index node has no end');
      const length = node.readUInt16LE(at + 8);
      const keyLength = node.readUInt16LE(at + 10);
      const flags = node.readUInt16LE(at + 12);
      source.check(length >= 16 && at + length <= end, 'an index entry is damaged');
      const last = (flags & LAST) !== 0;
      const key = node.subarray(at + 16, at + 16 + keyLength);
      source.check(last || (keyLength >= 66 && 66 + key[64]! * 2 <= keyLength), 'an index entry is damaged');
      const order = last ? -1 : compare(capitals, name, key, key[64]!);
      if (order === 0) return node;
      if (order < 0) {
        if ((flags & HAS_CHILD) !== 0) next = Number(node.readBigUInt64LE(at + length - 8));
        break;
      }
      at += length;
    }
    if (next === null) return null;
    node = await child(next);
  }
}

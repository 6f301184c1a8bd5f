/** Extended attributes: items of the inode, by the hash of their names. */
import type { Xattrs } from '../contracts.ts';
import { nameOf } from '../names.ts';
import { XattrList } from '../xattrs.ts';
import { type Btrfs, ITEM, type TreeRoot } from './filesystem.ts';

const HEADER = 30;

const keysOf = (number: number) => ({
  first: { object: number, type: ITEM.xattr, offset: 0 },
  last: { object: number, type: ITEM.xattr, offset: Number.POSITIVE_INFINITY },
});

/** The item of an inode, and whether it has extended attributes: these follow it closely, mostly in the same block. */
export async function inodeItems(
  btrfs: Btrfs,
  root: TreeRoot,
  number: number,
): Promise<{ readonly data: Buffer | null; readonly xattrs: boolean }> {
  let data: Buffer | null = null;
  const from = { object: number, type: ITEM.inode, offset: 0 };
  for await (const { key, data: its } of btrfs.items(root, from, keysOf(number).last)) {
    if (key.type === ITEM.inode) data = its;
    else if (key.type === ITEM.xattr) return { data, xattrs: true };
  }
  return { data, xattrs: false };
}

export async function xattrsOf(btrfs: Btrfs, root: TreeRoot, number: number): Promise<Xattrs> {
  const list = new XattrList(btrfs.source);
  const { first, last } = keysOf(number);
  for await (const { data } of btrfs.items(root, first, last)) {
    for (let at = 0; at + HEADER <= data.length; ) {
      const nameEnd = at + HEADER + data.readUInt16LE(at + 27);
      const end = nameEnd + data.readUInt16LE(at + 25);
      btrfs.source.check(end <= data.length, 'an extended attribute is damaged');
      list.add(nameOf(data.subarray(at + HEADER, nameEnd)), data.subarray(nameEnd, end));
      at = end;
    }
  }
  return list.found;
}

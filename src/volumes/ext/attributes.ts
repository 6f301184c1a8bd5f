/** Extended attributes: only what file content is kept in. Kernel documentation, "Extended Attributes", "Inline Data". */
import type { Ext, ExtInode } from './filesystem.ts';
import { MAP_AT, MAP_SIZE } from './structs.ts';

const MAGIC = 0xea02_0000;
const PREFIX_SYSTEM = 7;
const MOST = 1000;

/** The value of `system.data` in the inode's own space, where the rest of inline data lies. */
function inlineRest({ raw }: ExtInode): Buffer | null {
  const start = raw.length > 128 ? 128 + raw.readUInt16LE(0x80) : raw.length;
  if (start + 4 > raw.length || raw.readUInt32LE(start) !== MAGIC) return null;
  const entries = raw.subarray(start + 4);
  for (let at = 0, n = 0; at + 16 <= entries.length && entries.readUInt32LE(at) !== 0 && n < MOST; n++) {
    const nameLength = entries[at]!;
    const name = entries.toString('latin1', at + 16, at + 16 + nameLength);
    if (entries[at + 1] === PREFIX_SYSTEM && name === 'data') {
      const valueAt = entries.readUInt16LE(at + 2);
      return entries.subarray(valueAt, valueAt + entries.readUInt32LE(at + 8));
    }
    at += Math.ceil((16 + nameLength) / 4) * 4;
  }
  return null;
}

/** Content that lies in the inode itself: 60 bytes in place of the block map, the rest as an attribute. */
export async function inlineData(ext: Ext, inode: ExtInode): Promise<Buffer> {
  const { raw, size } = inode;
  const first = raw.subarray(MAP_AT, MAP_AT + MAP_SIZE);
  if (size <= MAP_SIZE) return first.subarray(0, size);
  const rest = inlineRest(inode);
  const whole = Buffer.concat([first, rest ?? Buffer.alloc(0)]);
  ext.source.check(whole.length >= size, `inode ${inode.number} holds ${whole.length} of ${size} bytes`);
  return whole.subarray(0, size);
}

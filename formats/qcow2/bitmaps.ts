/** Persistent bitmaps (QEMU docs/interop/qcow2.txt, "Bitmaps extension" and "Bitmap directory"): listed, not used. */
import type { ByteSource } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { bits64be, struct, u8, u16be, u32be, u64be } from '../../src/base/struct.ts';
import type { Qcow2Header } from './header.ts';

const Entry = struct('QCOW2 bitmap', 24, {
  tableAt: [0, bits64be],
  tableEntries: [8, u32be],
  flags: [12, u32be],
  type: [16, u8],
  granularityBits: [17, u8],
  nameLength: [18, u16be],
  extraLength: [20, u32be],
});

const IN_USE = 1;
/** Of a longer directory the beginning is listed. */
const MOST_BYTES = 2 ** 20;

const Pointer = struct('QCOW2 bitmaps extension', 24, {
  count: [0, u32be],
  directoryLength: [8, u64be],
  directoryAt: [16, u64be],
});

/** One line for each bitmap. 'corrupt' for a directory that cannot be. */
export async function listBitmaps(source: ByteSource, header: Qcow2Header): Promise<readonly string[]> {
  if (header.bitmaps === null) return [];
  const bitmaps = Pointer.parse(header.bitmaps, 0, source.name);
  const where = { file: source.name, at: bitmaps.directoryAt, field: 'bitmap directory' };
  if (bitmaps.directoryAt + bitmaps.directoryLength > source.size)
    throw new ImageError('corrupt', 'the bitmap directory leaves the file', where);
  const directory = new Uint8Array(Math.min(MOST_BYTES, bitmaps.directoryLength));
  await source.read(directory, bitmaps.directoryAt);
  const lines: string[] = [];
  for (let at = 0, i = 0; i < bitmaps.count && at + Entry.size <= directory.length; i++) {
    const { flags, granularityBits, nameLength, extraLength } = Entry.parse(directory, at, source.name);
    const nameAt = at + Entry.size + extraLength;
    if (nameAt + nameLength > bitmaps.directoryLength)
      throw new ImageError('corrupt', `bitmap ${i} leaves the directory`, where);
    const name = Buffer.from(directory.subarray(nameAt, nameAt + nameLength)).toString();
    const state = flags % 2 === IN_USE ? ', not closed cleanly' : '';
    lines.push(`bitmap ${JSON.stringify(name)}, a bit for ${2 ** granularityBits} bytes${state}`);
    at = Math.ceil((nameAt + nameLength) / 8) * 8;
  }
  return lines;
}

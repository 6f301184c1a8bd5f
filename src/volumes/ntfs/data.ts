/** What a file's data attribute holds once compression is undone. */
import type { Bytes } from '../../base/contracts.ts';
import { unitsContent } from '../content.ts';
import type { FileContent, FileRange } from '../contracts.ts';
import type { Runs } from '../runs.ts';
import type { Ntfs, WholeAttribute } from './filesystem.ts';
import { lznt1 } from './lznt1.ts';
import { lzx } from './lzx.ts';
import { COMPRESSED, ENCRYPTED, type Record, runsOf, TYPE } from './records.ts';
import { type Reparse, TAG } from './reparse.ts';
import { xpressHuffman } from './xpress.ts';

const LARGEST_UNIT = 4_194_304;

export async function fileContent(
  ntfs: Ntfs,
  record: Record,
  data: WholeAttribute,
  reparse: Reparse | null,
): Promise<FileContent> {
  if (reparse?.tag === TAG.wof) return wofContent(ntfs, record, data, reparse);
  if (reparse?.tag === TAG.deduplicated) throw ntfs.source.unsupported('the file is deduplicated by Windows');
  if ((data.flags & ENCRYPTED) !== 0) throw ntfs.source.unsupported('the file is encrypted (EFS)');
  const packed = (data.flags & COMPRESSED) !== 0 && data.unitShift > 0 && data.resident === null;
  return packed ? compressedContent(ntfs, data) : ntfs.content(data);
}

/** Bytes of a unit that are on the disk; they come first, and what follows is a hole. */
function storedIn(runs: Runs, from: Bytes, to: Bytes): Bytes {
  let stored = 0;
  for (let i = Math.max(0, runs.find(from)); i < runs.count; i++) {
    const { fileAt, length, at } = runs.run(i);
    if (fileAt >= to) break;
    if (at >= 0) stored += Math.max(0, Math.min(to, fileAt + length) - Math.max(from, fileAt));
  }
  return stored;
}

/** LZNT1 in units of 16 clusters as a rule: a unit is plain, all hole, or packed data followed by a hole. */
function compressedContent(ntfs: Ntfs, data: WholeAttribute): FileContent {
  const { source, clusterSize } = ntfs;
  const unitSize = clusterSize * 2 ** data.unitShift;
  source.check(unitSize <= LARGEST_UNIT, `compression units of ${unitSize} bytes`);
  const runs = runsOf(source, data.parts, clusterSize);
  // As long as its units: the last one is stored whole.
  const stored = ntfs.content({
    ...data,
    size: Math.ceil(data.size / unitSize) * unitSize,
    valid: Number.MAX_SAFE_INTEGER,
  });
  const range = (at: Bytes, limit: Bytes): FileRange => {
    const from = Math.floor(at / unitSize) * unitSize;
    const length = Math.min(limit, from + unitSize - at);
    if (at >= data.valid || storedIn(runs, from, from + unitSize) === 0) return { kind: 'zero', length };
    return { kind: 'packed', length };
  };
  const unit = async (index: number): Promise<Uint8Array> => {
    const from = index * unitSize;
    const out = Buffer.alloc(unitSize);
    const length = storedIn(runs, from, from + unitSize);
    if (length === unitSize) await stored.read(out, from);
    else if (length > 0) {
      const packed = Buffer.allocUnsafe(length);
      await stored.read(packed, from);
      lznt1(source, packed, out);
    }
    if (data.valid < from + unitSize) out.fill(0, Math.max(0, data.valid - from));
    return out;
  };
  return unitsContent({ size: data.size, unitSize, unit, range });
}

/** Chunk sizes by the number of the algorithm: XPRESS4K, LZX, XPRESS8K, XPRESS16K. */
const WOF_CHUNKS = [4096, 32_768, 8192, 16_384] as const;
const WOF_LZX = 1;
const WOF_PROVIDER_FILE = 2;

/** "CompactOS": chunks in a stream of their own, after a table of where each ends. Source: [MS-FSCC] 2.1.2, wimlib. */
async function wofContent(ntfs: Ntfs, record: Record, data: WholeAttribute, reparse: Reparse): Promise<FileContent> {
  const { source } = ntfs;
  source.check(reparse.data.length >= 16, 'a compressed file does not say how');
  if (reparse.data.readUInt32LE(4) !== WOF_PROVIDER_FILE) throw source.unsupported('the file is kept in a WIM archive');
  const algorithm = reparse.data.readUInt32LE(12);
  const unitSize = WOF_CHUNKS[algorithm];
  if (unitSize === undefined) throw source.unsupported(`compression ${algorithm} is not known`);
  const attribute = await ntfs.attribute(record, TYPE.data, 'WofCompressedData');
  const packed = ntfs.content(source.need(attribute, 'a compressed file has no content'));
  const chunks = Math.ceil(data.size / unitSize);
  const width = data.size > 0xffff_ffff ? 8 : 4;
  const tableSize = Math.max(0, chunks - 1) * width;
  source.check(tableSize <= packed.size, 'the table of a compressed file is longer than the file');
  const endOf = async (chunk: number): Promise<Bytes> => {
    if (chunk < 0) return 0;
    if (chunk >= chunks - 1) return packed.size - tableSize;
    const entry = Buffer.alloc(8);
    await packed.read(entry.subarray(0, width), chunk * width);
    return entry.readUInt32LE(0) + entry.readUInt32LE(4) * 0x1_0000_0000;
  };
  const unit = async (index: number): Promise<Uint8Array> => {
    const [from, to] = [await endOf(index - 1), await endOf(index)];
    const size = Math.min(unitSize, data.size - index * unitSize);
    source.check(
      to >= from && to - from <= size && tableSize + to <= packed.size,
      'a compressed chunk has no sound place',
    );
    const stored = Buffer.allocUnsafe(to - from);
    await packed.read(stored, tableSize + from);
    if (stored.length === size) return stored;
    return algorithm === WOF_LZX ? lzx(source, stored, size) : xpressHuffman(source, stored, size);
  };
  return unitsContent({ size: data.size, unitSize, unit });
}

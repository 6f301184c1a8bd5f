/** Extended attributes, and content that is kept in them. Kernel documentation, "Extended Attributes", "Inline Data". */
import { wholeOf } from '../content.ts';
import type { Xattrs } from '../contracts.ts';
import { nameOf } from '../names.ts';
import { extAcl, XattrList } from '../xattrs.ts';
import type { Ext, ExtInode } from './filesystem.ts';
import { contentOf } from './nodes.ts';
import { MAP_AT, MAP_SIZE } from './structs.ts';

const MAGIC = 0xea02_0000;
const BLOCK_HEADER = 32;
const BLOCK_CHECKSUM = 16;
const PREFIX_SYSTEM = 7;
const PREFIXES: Readonly<Record<number, string>> = {
  0: '',
  1: 'user.',
  2: 'system.posix_acl_access',
  3: 'system.posix_acl_default',
  4: 'trusted.',
  5: 'lustre.',
  6: 'security.',
  7: 'system.',
  8: 'system.richacl',
  9: 'encryption.',
};
/** Keeps the value of one attribute of another inode. */
const FLAG_VALUE_INODE = 0x20_0000;
const LONGEST_VALUE = 65_536;
const MOST = 1000;

interface Entry {
  readonly prefix: number;
  readonly name: Buffer;
  readonly valueAt: number;
  /** Number of the inode that has the value; 0: it lies beside. */
  readonly valueInode: number;
  readonly size: number;
}

function* entriesIn(bytes: Buffer): Iterable<Entry> {
  for (let at = 0, n = 0; at + 16 <= bytes.length && bytes.readUInt32LE(at) !== 0 && n < MOST; n++) {
    const nameEnd = at + 16 + bytes[at]!;
    yield {
      prefix: bytes[at + 1]!,
      name: bytes.subarray(at + 16, nameEnd),
      valueAt: bytes.readUInt16LE(at + 2),
      valueInode: bytes.readUInt32LE(at + 4),
      size: bytes.readUInt32LE(at + 8),
    };
    at = Math.ceil(nameEnd / 4) * 4;
  }
}

/** What follows the inode's fields, where that is attributes. */
function inInode({ raw }: ExtInode): Buffer | null {
  const start = raw.length > 128 ? 128 + raw.readUInt16LE(0x80) : raw.length;
  return start + 4 > raw.length || raw.readUInt32LE(start) !== MAGIC ? null : raw.subarray(start + 4);
}

const blockOf = ({ fields }: ExtInode): number => fields.attributesLow + fields.attributesHigh * 0x1_0000_0000;

const isContent = ({ prefix, name }: Entry): boolean => prefix === PREFIX_SYSTEM && name.toString('latin1') === 'data';

/** The value of `system.data` in the inode's own space, where the rest of inline data lies. */
function inlineRest(inode: ExtInode): Buffer | null {
  const bytes = inInode(inode);
  if (bytes === null) return null;
  for (const entry of entriesIn(bytes)) {
    if (isContent(entry)) return bytes.subarray(entry.valueAt, entry.valueAt + entry.size);
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

/** The block of attributes that an inode has beside. */
async function attributeBlock(ext: Ext, inode: ExtInode): Promise<Buffer> {
  const { source } = ext;
  const number = blockOf(inode);
  const block = await ext.block(number);
  const at = number * ext.blockSize;
  const sound = block.readUInt32LE(0) === MAGIC && block.readUInt32LE(8) === 1;
  source.check(sound, `the attributes of inode ${inode.number} are damaged`, at);
  const place = Buffer.alloc(8);
  place.writeBigUInt64LE(BigInt(number));
  const copy = Buffer.from(block);
  copy.writeUInt32LE(0, BLOCK_CHECKSUM);
  const crc = ext.checksum([place, copy]);
  const kept = block.readUInt32LE(BLOCK_CHECKSUM);
  source.check(
    crc === null || crc === kept,
    `the checksum of the attributes of inode ${inode.number} does not match`,
    at,
  );
  return block;
}

async function valueFor(ext: Ext, entry: Entry, beside: Buffer): Promise<Buffer> {
  const { source } = ext;
  const { valueAt, valueInode, size } = entry;
  source.check(size <= LONGEST_VALUE, `an extended attribute of ${size} bytes`);
  if (valueInode === 0) {
    source.check(valueAt + size <= beside.length, 'the value of an extended attribute leads outside its space');
    return beside.subarray(valueAt, valueAt + size);
  }
  const holder = await ext.inode(valueInode);
  const sound = (holder.fields.flags & FLAG_VALUE_INODE) !== 0 && holder.size === size;
  source.check(sound, `inode ${valueInode} holds no value of an extended attribute`);
  return wholeOf(source, await contentOf(ext, holder), LONGEST_VALUE);
}

async function collect(ext: Ext, entries: Buffer, values: Buffer, into: XattrList): Promise<void> {
  for (const entry of entriesIn(entries)) {
    const prefix = PREFIXES[entry.prefix];
    if (prefix === undefined || isContent(entry)) continue;
    const value = await valueFor(ext, entry, values);
    const isAcl = entry.prefix === 2 || entry.prefix === 3;
    into.add(prefix + nameOf(entry.name), isAcl ? extAcl(ext.source, value) : value);
  }
}

async function read(ext: Ext, inode: ExtInode): Promise<Xattrs> {
  const list = new XattrList(ext.source);
  const own = inInode(inode);
  if (own !== null) await collect(ext, own, own, list);
  if (blockOf(inode) !== 0) {
    const block = await attributeBlock(ext, inode);
    await collect(ext, block.subarray(BLOCK_HEADER), block, list);
  }
  return list.found;
}

/** Nothing where there is none, which is known without a read. */
export const xattrsOf = (ext: Ext, inode: ExtInode): { xattrs?: () => Promise<Xattrs> } =>
  blockOf(inode) === 0 && inInode(inode) === null ? {} : { xattrs: () => read(ext, inode) };

/** Files, folders and links of an XFS file system. */
import { TYPE_BITS, TYPE_MASK } from '../../base/file-types.ts';
import { runsContent } from '../content.ts';
import type { Attributes, Device, EntryKind, FileContent, VolumeDir, VolumeEntry, VolumeNode } from '../contracts.ts';
import { deviceType } from '../devices.ts';
import { NumberedEntry } from '../entries.ts';
import { nameBytes, nameOf } from '../names.ts';
import type { Runs } from '../runs.ts';
import { dateOf, u64be } from '../source.ts';
import { xattrsOf } from './attributes.ts';
import type { Xfs, XfsInode } from './filesystem.ts';
import { entriesWith } from './lookup.ts';
import { FLAG_REALTIME, FLAG2_BIGTIME, FOLDER_END, FORMAT } from './structs.ts';

const KINDS: readonly EntryKind[] = ['other', 'file', 'dir', 'other', 'other', 'other', 'other', 'link'];
const LONGEST_LINK = 4096;
const MOST_FOLDER_BYTES = 2 ** 30;
const FREE = 0xffff;
/** Lengths of the headers of folder blocks, by how they begin. */
const HEADERS = new Map([
  ['XD2D', 16],
  ['XD2B', 16],
  ['XDD3', 64],
  ['XDB3', 64],
]);

/** Nanoseconds since 1901 in one word, or seconds and nanoseconds. */
function mtimeOf({ raw, flags2 }: XfsInode): Date {
  if ((flags2 & FLAG2_BIGTIME) !== 0) return dateOf(Number(raw.readBigUInt64BE(40) / 1_000_000n) - 2_147_483_648_000);
  return dateOf(raw.readInt32BE(40) * 1000 + Math.floor(raw.readUInt32BE(44) / 1e6));
}

/** The numbers of a device stand where the map would: 14 bits and 18. */
function deviceOf({ mode, fork }: XfsInode): { device?: Device } {
  const type = deviceType(mode);
  if (type === undefined) return {};
  const numbers = type === 'fifo' || type === 'socket' ? 0 : fork.readUInt32BE(0);
  return { device: { type, major: (numbers >>> 18) & 0x3fff, minor: numbers & 0x3_ffff } };
}

export async function nodeOf(xfs: Xfs, number: number): Promise<VolumeNode> {
  const inode = await xfs.inode(number);
  const { raw, mode, version, size } = inode;
  const attributes: Attributes = {
    mtime: mtimeOf(inode),
    mode: mode & 0o7777,
    uid: raw.readUInt32BE(8),
    gid: raw.readUInt32BE(12),
    links: version === 1 ? raw.readUInt16BE(6) : raw.readUInt32BE(16),
    ...xattrsOf(xfs, inode),
  };
  switch (mode & TYPE_MASK) {
    case TYPE_BITS.dir:
      return { ...attributes, kind: 'dir', id: String(number), list: () => list(xfs, inode), ...indexed(xfs, inode) };
    case TYPE_BITS.file: {
      const allocated = u64be(raw, 64) * xfs.blockSize;
      const id = attributes.links > 1 ? { id: String(number) } : {};
      return { ...attributes, kind: 'file', size, allocated, ...id, open: () => openFile(xfs, inode) };
    }
    case TYPE_BITS.link:
      return { ...attributes, kind: 'link', target: () => target(xfs, inode) };
    default:
      xfs.source.check(mode !== 0, `inode ${number} is not in use`);
      return { ...attributes, kind: 'other', ...deviceOf(inode) };
  }
}

export async function rootOf(xfs: Xfs): Promise<VolumeDir> {
  const root = await nodeOf(xfs, xfs.superblock.rootInode);
  return xfs.source.need(root.kind === 'dir' ? root : null, 'the root is no folder');
}

async function openFile(xfs: Xfs, inode: XfsInode): Promise<FileContent> {
  if ((inode.raw.readUInt16BE(90) & FLAG_REALTIME) !== 0) throw xfs.source.unsupported('the file is on another device');
  return runsContent(xfs.source, await xfs.map(inode), inode.size);
}

async function target(xfs: Xfs, inode: XfsInode): Promise<string> {
  const { source, blockSize } = xfs;
  const { size, fork, format } = inode;
  source.check(size > 0 && size <= LONGEST_LINK, `a link of ${size} bytes`);
  if (format === FORMAT.local) return nameOf(fork.subarray(0, size));
  const parts: Buffer[] = [];
  const runs = await xfs.map(inode);
  for (let i = 0; i < runs.count; i++) {
    const { at, length } = runs.run(i);
    source.check(at >= 0 && length <= 2 * LONGEST_LINK + blockSize, 'the target of a link is damaged');
    for (let within = 0; within < length; within += blockSize) {
      const block = await source.bytes(at + within, blockSize);
      parts.push(block.toString('latin1', 0, 4) === 'XSLM' ? block.subarray(56) : block);
    }
  }
  const whole = Buffer.concat(parts);
  source.check(whole.length >= size, 'the target of a link is not all there');
  return nameOf(whole.subarray(0, size));
}

function put(xfs: Xfs, out: VolumeEntry[], name: Buffer, number: number, type: number): void {
  const dots = name[0] === 0x2e && (name.length === 1 || (name.length === 2 && name[1] === 0x2e));
  if (dots || name.length === 0) return;
  xfs.source.check(Number.isSafeInteger(number), 'a folder names no sound inode');
  const kind = xfs.ftype ? (KINDS[type] ?? 'other') : 'other';
  out.push(new NumberedEntry(nameOf(name), kind, xfs, number, nodeOf));
}

/** A folder in its inode: the number of the folder above, then the entries. Numbers take 4 bytes where that is enough. */
function shortForm(xfs: Xfs, fork: Buffer, out: VolumeEntry[]): void {
  const wide = fork[1]! > 0;
  const width = wide ? 8 : 4;
  const count = fork[0]!;
  let at = 2 + width;
  for (let i = 0; i < count; i++) {
    const nameEnd = at + 3 + fork.readUInt8(at);
    const numberAt = nameEnd + (xfs.ftype ? 1 : 0);
    xfs.source.check(numberAt + width <= fork.length, 'a short folder is damaged');
    const number = wide ? u64be(fork, numberAt) : fork.readUInt32BE(numberAt);
    put(xfs, out, fork.subarray(at + 3, nameEnd), number, fork[nameEnd]!);
    at = numberAt + width;
  }
}

/** Entries between a block's header and, where the block is the whole folder, its index. */
function blockEntries(xfs: Xfs, block: Buffer, out: VolumeEntry[]): void {
  const signature = block.toString('latin1', 0, 4);
  const header = xfs.source.need(HEADERS.get(signature), `a folder's block begins with ${JSON.stringify(signature)}`);
  const single = signature === 'XD2B' || signature === 'XDB3';
  const end = single ? block.length - 8 - block.readUInt32BE(block.length - 8) * 8 : block.length;
  xfs.source.check(end >= header, 'the index of a folder is damaged');
  for (let at = header; at + 11 < end; ) {
    if (block.readUInt16BE(at) === FREE) {
      const length = block.readUInt16BE(at + 2);
      xfs.source.check(length >= 8 && length % 8 === 0, 'free space in a folder has no sound length');
      at += length;
      continue;
    }
    const nameEnd = at + 9 + block[at + 8]!;
    xfs.source.check(nameEnd + 3 <= block.length, 'a name leads outside its block');
    put(xfs, out, block.subarray(at + 9, nameEnd), u64be(block, at), block[nameEnd]!);
    at = Math.ceil((nameEnd + (xfs.ftype ? 1 : 0) + 2) / 8) * 8;
  }
}

/** Offsets of the folder's blocks, which may each be in several runs. */
function blockOffsets(xfs: Xfs, runs: Runs): readonly number[] {
  const offsets = new Set<number>();
  for (let i = 0; i < runs.count; i++) {
    const { fileAt, length, at } = runs.run(i);
    const end = Math.min(fileAt + length, FOLDER_END);
    if (at < 0 || fileAt >= end) continue;
    xfs.source.check((offsets.size + 1) * xfs.folderBlock + length <= MOST_FOLDER_BYTES, 'a folder is too large');
    const first = Math.floor(fileAt / xfs.folderBlock) * xfs.folderBlock;
    for (let offset = first; offset < end; offset += xfs.folderBlock) offsets.add(offset);
  }
  return [...offsets];
}

async function list(xfs: Xfs, inode: XfsInode): Promise<readonly VolumeEntry[]> {
  const out: VolumeEntry[] = [];
  if (inode.format === FORMAT.local) shortForm(xfs, inode.fork, out);
  else {
    const runs = await xfs.map(inode);
    const content = runsContent(xfs.source, runs, FOLDER_END);
    const block = Buffer.allocUnsafe(xfs.folderBlock);
    for (const offset of blockOffsets(xfs, runs)) {
      await content.read(block, offset);
      blockEntries(xfs, block, out);
    }
  }
  return xfs.ftype ? out : Promise.all(out.map(withKind));
}

/** Folders of more than one block, whose names are found by their hashes. */
function indexed(xfs: Xfs, inode: XfsInode): Pick<VolumeDir, 'lookup'> {
  const plain = inode.format !== FORMAT.local && inode.size > xfs.folderBlock && !xfs.anyCase;
  return plain ? { lookup: name => lookup(xfs, inode, name) } : {};
}

async function lookup(xfs: Xfs, inode: XfsInode, name: string): Promise<VolumeNode | null> {
  const bytes = nameBytes(name);
  if (bytes === null) return null;
  const content = runsContent(xfs.source, await xfs.map(inode), Number.MAX_SAFE_INTEGER);
  const read = async (at: number): Promise<Buffer> => {
    const block = Buffer.allocUnsafe(xfs.folderBlock);
    await content.read(block, at);
    return block;
  };
  for (const at of await entriesWith(xfs, bytes, read)) {
    const first = at - (at % xfs.folderBlock);
    xfs.source.check(first < FOLDER_END, 'the index of a folder leads outside it');
    const entry = (await read(first)).subarray(at - first);
    const nameEnd = 9 + entry.readUInt8(8);
    xfs.source.check(nameEnd < entry.length, 'a name leads outside its block');
    if (entry.subarray(9, nameEnd).equals(bytes)) return nodeOf(xfs, u64be(entry, 0));
  }
  return null;
}

async function withKind(entry: VolumeEntry): Promise<VolumeEntry> {
  try {
    return { name: entry.name, kind: (await entry.node()).kind, node: () => entry.node() };
  } catch {
    // The entry is there, and asking for its node tells what is wrong.
    return entry;
  }
}

/** Files, folders and links of an ext file system. */
import { TYPE_BITS } from '../../base/file-types.ts';
import { bytesContent, runsContent, wholeOf } from '../content.ts';
import type { Attributes, Device, EntryKind, FileContent, VolumeDir, VolumeEntry, VolumeNode } from '../contracts.ts';
import { deviceType } from '../devices.ts';
import { NumberedEntry } from '../entries.ts';
import { nameBytes, nameOf } from '../names.ts';
import { dateOf } from '../source.ts';
import { inlineData, xattrsOf } from './attributes.ts';
import type { Ext, ExtInode } from './filesystem.ts';
import { blocksFor } from './htree.ts';
import { mapOf } from './map.ts';
import {
  FLAG_CASEFOLD,
  FLAG_ENCRYPTED,
  FLAG_EXTENTS,
  FLAG_HUGE_FILE,
  FLAG_INDEX,
  FLAG_INLINE,
  MAP_AT,
  MAP_SIZE,
} from './structs.ts';

const KINDS: readonly EntryKind[] = ['other', 'file', 'dir', 'other', 'other', 'other', 'other', 'link'];
const LONGEST_LINK = 4096;
const LARGEST_FOLDER = 2 ** 30;
/** Marks the checksum at the end of a folder's block, which looks like an unused entry. */
const CHECKSUM_ENTRY = 0xde;

function attributesOf(ext: Ext, inode: ExtInode): Attributes {
  const { fields, raw } = inode;
  // Two more bits of the seconds and the nanoseconds are in the inode's second part, where it has one.
  const wide = raw.length > 128 && raw.readUInt16LE(0x80) + 128 >= 0x8c;
  const extra = wide ? raw.readUInt32LE(0x88) : 0;
  const seconds = (fields.mtime | 0) + (extra & 3) * 0x1_0000_0000;
  return {
    mtime: dateOf(seconds * 1000 + Math.floor((extra >>> 2) / 1e6)),
    mode: fields.mode & 0o7777,
    uid: fields.uidLow + fields.uidHigh * 0x1_0000,
    gid: fields.gidLow + fields.gidHigh * 0x1_0000,
    links: fields.links,
    ...xattrsOf(ext, inode),
  };
}

/** Numbers of a device stand in place of the block map: in its first word in the old form, in its second in the new one. */
function deviceOf({ raw, type }: ExtInode): { device?: Device } {
  const its = deviceType(type);
  if (its === undefined) return {};
  if (its === 'fifo' || its === 'socket') return { device: { type: its, major: 0, minor: 0 } };
  const [old, now] = [raw.readUInt32LE(MAP_AT), raw.readUInt32LE(MAP_AT + 4)];
  if (old !== 0) return { device: { type: its, major: (old >>> 8) & 0xff, minor: old & 0xff } };
  return { device: { type: its, major: (now >>> 8) & 0xfff, minor: (now & 0xff) | ((now >>> 12) & 0xf_ff00) } };
}

export async function nodeOf(ext: Ext, number: number): Promise<VolumeNode> {
  const inode = await ext.inode(number);
  const attributes = attributesOf(ext, inode);
  const unit = (inode.fields.flags & FLAG_HUGE_FILE) !== 0 ? ext.blockSize : 512;
  switch (inode.type) {
    case TYPE_BITS.dir:
      return { ...attributes, kind: 'dir', id: String(number), list: () => list(ext, inode), ...indexed(ext, inode) };
    case TYPE_BITS.file: {
      const inline = (inode.fields.flags & FLAG_INLINE) !== 0;
      const allocated = inode.fields.blocks * unit + (inline ? inode.size : 0);
      const id = inode.fields.links > 1 ? { id: String(number) } : {};
      return { ...attributes, kind: 'file', size: inode.size, allocated, ...id, open: () => openFile(ext, inode) };
    }
    case TYPE_BITS.link:
      return { ...attributes, kind: 'link', target: () => target(ext, inode) };
    default:
      ext.source.check(inode.fields.mode !== 0, `inode ${number} is not in use`);
      return { ...attributes, kind: 'other', ...deviceOf(inode) };
  }
}

export async function rootOf(ext: Ext): Promise<VolumeDir> {
  const root = await nodeOf(ext, 2);
  return ext.source.need(root.kind === 'dir' ? root : null, 'the root is no folder');
}

/** Content, without asking whether it is encrypted. */
export async function contentOf(ext: Ext, inode: ExtInode): Promise<FileContent> {
  if ((inode.fields.flags & FLAG_INLINE) !== 0) return bytesContent(await inlineData(ext, inode));
  return runsContent(ext.source, await mapOf(ext, inode), inode.size);
}

function openFile(ext: Ext, inode: ExtInode): Promise<FileContent> {
  if ((inode.fields.flags & FLAG_ENCRYPTED) !== 0) throw ext.source.unsupported('the file is encrypted (fscrypt)');
  return contentOf(ext, inode);
}

async function target(ext: Ext, inode: ExtInode): Promise<string> {
  const { fields, raw, size } = inode;
  ext.source.check(size > 0 && size <= LONGEST_LINK, `a link of ${size} bytes`);
  if ((fields.flags & FLAG_ENCRYPTED) !== 0) throw ext.source.unsupported('the link is encrypted (fscrypt)');
  if (size < MAP_SIZE && (fields.flags & (FLAG_INLINE | FLAG_EXTENTS)) === 0) {
    return nameOf(raw.subarray(MAP_AT, MAP_AT + size));
  }
  return nameOf(await wholeOf(ext.source, await contentOf(ext, inode), LONGEST_LINK));
}

/**
 * Entries of one block. Index blocks of a hashed folder look like one entry that is not used, so reading in line
 * passes over them.
 */
function entriesIn(ext: Ext, block: Buffer, out: VolumeEntry[]): void {
  for (let at = 0; at + 8 <= block.length; ) {
    const number = block.readUInt32LE(at);
    const length = block.readUInt16LE(at + 4) || block.length - at;
    const nameLength = block[at + 6]!;
    const type = block[at + 7]!;
    ext.source.check(length >= 8 && at + length <= block.length, 'an entry of a folder leads outside its block');
    if (number !== 0 && nameLength > 0 && type !== CHECKSUM_ENTRY) {
      ext.source.check(nameLength + 8 <= length, 'a name is longer than its entry');
      const name = block.subarray(at + 8, at + 8 + nameLength);
      const dots = name[0] === 0x2e && (nameLength === 1 || (nameLength === 2 && name[1] === 0x2e));
      const kind = ext.has('filetype') ? (KINDS[type] ?? 'other') : 'other';
      if (!dots) out.push(new NumberedEntry(nameOf(name), kind, ext, number, nodeOf));
    }
    at += length;
  }
}

async function list(ext: Ext, inode: ExtInode): Promise<readonly VolumeEntry[]> {
  const { source, blockSize } = ext;
  source.check(inode.size <= Math.min(LARGEST_FOLDER, source.size), `a folder of ${inode.size} bytes`);
  const out: VolumeEntry[] = [];
  if ((inode.fields.flags & FLAG_INLINE) !== 0) {
    const data = await inlineData(ext, inode);
    // The number of the folder above stands in place of `.` and `..`.
    entriesIn(ext, data.subarray(4, MAP_SIZE), out);
    if (data.length > MAP_SIZE) entriesIn(ext, data.subarray(MAP_SIZE), out);
  } else {
    const runs = await mapOf(ext, inode);
    for (let i = 0; i < runs.count; i++) {
      const { fileAt, length, at } = runs.run(i);
      for (let within = 0; at >= 0 && within < length && fileAt + within < inode.size; within += blockSize) {
        entriesIn(ext, await source.bytes(at + within, blockSize), out);
      }
    }
  }
  return ext.has('filetype') ? out : Promise.all(out.map(withKind));
}

/** Folders whose names are found by their hashes. */
function indexed(ext: Ext, inode: ExtInode): Pick<VolumeDir, 'lookup'> {
  const { flags } = inode.fields;
  const plain = (flags & (FLAG_INDEX | FLAG_INLINE | FLAG_ENCRYPTED | FLAG_CASEFOLD)) === FLAG_INDEX;
  return plain ? { lookup: name => lookup(ext, inode, name) } : {};
}

async function lookup(ext: Ext, inode: ExtInode, name: string): Promise<VolumeNode | null> {
  const bytes = nameBytes(name);
  if (bytes === null) return null;
  const content = runsContent(ext.source, await mapOf(ext, inode), inode.size);
  const block = async (index: number): Promise<Buffer> => {
    const at = index * ext.blockSize;
    ext.source.check(at + ext.blockSize <= inode.size, `the index of folder ${inode.number} leads outside it`);
    const where = content.range(at, ext.blockSize);
    const place = ext.source.need(
      where.kind === 'disk' ? where.at : null,
      `a block of folder ${inode.number} is a hole`,
    );
    return ext.source.bytes(place - ext.source.start, ext.blockSize);
  };
  const blocks = await blocksFor(ext, inode, bytes, block);
  const entries: VolumeEntry[] = blocks === null ? [...(await list(ext, inode))] : [];
  for (const index of blocks ?? []) entriesIn(ext, await block(index), entries);
  return (await entries.find(entry => entry.name === name)?.node()) ?? null;
}

async function withKind(entry: VolumeEntry): Promise<VolumeEntry> {
  try {
    return { name: entry.name, kind: (await entry.node()).kind, node: () => entry.node() };
  } catch {
    // The entry is there, and asking for its node tells what is wrong.
    return entry;
  }
}

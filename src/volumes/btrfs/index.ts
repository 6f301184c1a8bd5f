/**
 * btrfs on one device, or one mirror of several. The newest changes of an unclean file system may be in its log tree,
 * which is not replayed: the file system is whole without it, as of its last commit.
 */

import { crc32c } from '../../base/checksum.ts';
import { TYPE_BITS, TYPE_MASK } from '../../base/file-types.ts';
import { roundUp } from '../../base/range.ts';
import { wholeOf } from '../content.ts';
import type {
  Attributes,
  Device,
  EntryKind,
  Volume,
  VolumeDir,
  VolumeEntry,
  VolumeNode,
  VolumeReader,
} from '../contracts.ts';
import { deviceType } from '../devices.ts';
import { NumberedEntry } from '../entries.ts';
import { fieldText, nameBytes, nameOf } from '../names.ts';
import { dateOf, u64 } from '../source.ts';
import { openContent } from './content.ts';
import { type Btrfs, ITEM, keyAt, openFileSystem } from './filesystem.ts';
import { free } from './free.ts';
import { inodeItems, xattrsOf } from './xattrs.ts';

const TOP_LEVEL = 5;
const ROOT_INODE = 256;
const LONGEST_LINK = 4096;
const KINDS: readonly EntryKind[] = ['other', 'file', 'dir', 'other', 'other', 'other', 'other', 'link'];

/** What Linux keeps a device's numbers in: 12 bits and 20. */
function deviceOf(mode: number, data: Buffer): { device?: Device } {
  const type = deviceType(mode);
  const numbers = data.readUInt32LE(56);
  return type === undefined ? {} : { device: { type, major: numbers >>> 20, minor: numbers & 0xf_ffff } };
}

async function nodeOf(btrfs: Btrfs, tree: number, number: number): Promise<VolumeNode> {
  const { source } = btrfs;
  const root = await btrfs.tree(tree);
  const { data: found, xattrs } = await inodeItems(btrfs, root, number);
  const data = source.need(found, `there is no inode ${number} in subvolume ${tree}`);
  source.check(data.length >= 160, `inode ${number} is damaged`);
  const mode = data.readUInt32LE(52);
  const seconds = data.readUInt32LE(136) + data.readInt32LE(140) * 0x1_0000_0000;
  const attributes: Attributes = {
    mtime: dateOf(seconds * 1000 + Math.floor(data.readUInt32LE(144) / 1e6)),
    mode: mode & 0o7777,
    uid: data.readUInt32LE(44),
    gid: data.readUInt32LE(48),
    links: data.readUInt32LE(40),
    ...(xattrs ? { xattrs: () => xattrsOf(btrfs, root, number) } : {}),
  };
  const size = u64(data, 16);
  source.check(Number.isSafeInteger(size), `inode ${number} has no sound size`);
  const open = () => openContent(btrfs, root, number, size);
  switch (mode & TYPE_MASK) {
    case TYPE_BITS.dir:
      return {
        ...attributes,
        kind: 'dir',
        id: `${tree}:${number}`,
        list: () => list(btrfs, tree, number),
        lookup: name => lookup(btrfs, tree, number, name),
      };
    case TYPE_BITS.file:
      return {
        ...attributes,
        kind: 'file',
        size,
        allocated: roundUp(u64(data, 24), btrfs.superblock.sectorSize),
        ...(attributes.links > 1 ? { id: `${tree}:${number}` } : {}),
        open,
      };
    case TYPE_BITS.link:
      return {
        ...attributes,
        kind: 'link',
        target: async () => nameOf(await wholeOf(source, await open(), LONGEST_LINK)),
      };
    default:
      return { ...attributes, kind: 'other', ...deviceOf(mode, data) };
  }
}

interface Tree {
  readonly btrfs: Btrfs;
  readonly tree: number;
}

const nodeIn = ({ btrfs, tree }: Tree, number: number): Promise<VolumeNode> => nodeOf(btrfs, tree, number);

/** Entries that begin one after the other in an item. */
function entriesIn(within: Tree, data: Buffer): readonly VolumeEntry[] {
  const { btrfs } = within;
  const out: VolumeEntry[] = [];
  for (let at = 0; at + 30 <= data.length; ) {
    const nameEnd = at + 30 + data.readUInt16LE(at + 27);
    btrfs.source.check(nameEnd <= data.length, 'an entry of a folder is damaged');
    const name = nameOf(data.subarray(at + 30, nameEnd));
    const { object, type } = keyAt(data, at);
    // A subvolume is a folder that is the root of another tree.
    const subvolume = type === ITEM.root;
    const kind = subvolume ? 'dir' : (KINDS[data[at + 29]!] ?? 'other');
    const node = () => nodeOf(btrfs, object, ROOT_INODE);
    out.push(subvolume ? { name, kind, node } : new NumberedEntry(name, kind, within, object, nodeIn));
    at = nameEnd + data.readUInt16LE(at + 25);
  }
  return out;
}

async function list(btrfs: Btrfs, tree: number, number: number): Promise<readonly VolumeEntry[]> {
  const root = await btrfs.tree(tree);
  const out: VolumeEntry[] = [];
  const within: Tree = { btrfs, tree };
  const keys = { object: number, type: ITEM.dirIndex };
  const last = { ...keys, offset: Number.POSITIVE_INFINITY };
  for await (const { data } of btrfs.items(root, { ...keys, offset: 0 }, last)) out.push(...entriesIn(within, data));
  return out;
}

/** By the hash of the name: CRC-32C that begins with -2 and is not inverted. Names of one hash share an item. */
async function lookup(btrfs: Btrfs, tree: number, number: number, name: string): Promise<VolumeNode | null> {
  const bytes = nameBytes(name);
  if (bytes === null) return null;
  const key = { object: number, type: ITEM.dirItem, offset: ~crc32c(bytes, 1) >>> 0 };
  const { value } = await btrfs.items(await btrfs.tree(tree), key, key).next();
  const found =
    value === undefined ? undefined : entriesIn({ btrfs, tree }, value.data).find(entry => entry.name === name);
  return (await found?.node()) ?? null;
}

export const btrfs: VolumeReader = {
  name: 'btrfs',
  async open(source): Promise<Volume | null> {
    const its = await openFileSystem(source);
    if (its === null) return null;
    const root = await nodeOf(its, TOP_LEVEL, ROOT_INODE);
    const top: VolumeDir = source.need(root.kind === 'dir' ? root : null, 'the root is no folder');
    const logged = its.superblock.logTree !== 0;
    const warnings = logged ? ['the last changes are in the btrfs log tree, which is not replayed'] : [];
    const label = fieldText(its.superblock.label);
    return { type: 'btrfs', label, warnings, root: top, free: found => free(its, found) };
  },
};

/** Files, folders, links and streams of an NTFS volume. */
import type { Attributes, EntryKind, VolumeDir, VolumeEntry, VolumeFile, VolumeNode } from '../contracts.ts';
import { NumberedEntry } from '../entries.ts';
import { nameOf } from '../names.ts';
import { dateOf } from '../source.ts';
import { fileContent } from './data.ts';
import type { Ntfs, WholeAttribute } from './filesystem.ts';
import { eachNode, entriesOf, indexRoot } from './index-nodes.ts';
import { nodeWith } from './lookup.ts';
import { FLAG_DIR, FLAG_IN_USE, fixedUp, type Record, referenceAt, TYPE } from './records.ts';
import { isLink, linkTarget, type Reparse, readReparse } from './reparse.ts';
import { xattrsOf } from './security.ts';

export const ROOT = 5;
/** Records below belong to the file system itself. */
const FIRST_USER_RECORD = 24;
const NAMESPACE_DOS = 2;
const ATTRIBUTE_READ_ONLY = 0x1;
const ATTRIBUTE_SYSTEM = 0x4;
const ATTRIBUTE_REPARSE = 0x400;
const NAME_IS_DIR = 0x1000_0000;
/** The index of a folder. */
const NAMES = '$I30';
const LARGEST_INDEX = 2 ** 31;
const LARGEST_BITMAP = 4_194_304;

/** 100 ns since 1601. */
const time = (bytes: Buffer, at: number): Date =>
  dateOf(Number(bytes.readBigUInt64LE(at) / 10_000n) - 11_644_473_600_000);

interface Standard {
  readonly mtime: Date;
  readonly flags: number;
}

function standardOf(ntfs: Ntfs, record: Record): Standard {
  const found = record.attributes.find(({ type }) => type === TYPE.standard)?.resident;
  const bytes = ntfs.source.need(found, `file record ${record.number} has no times`);
  return { mtime: time(bytes, 8), flags: bytes.readUInt32LE(32) };
}

const LINK_MAGIC = 'IntxLNK\x01';
const LONGEST_INTX = 8200;

/** Symbolic links as Interix and ntfs-3g write them: a system file that begins with a magic word. */
async function interixLink(ntfs: Ntfs, flags: number, data: WholeAttribute | null): Promise<string | null> {
  if ((flags & ATTRIBUTE_SYSTEM) === 0 || data === null || data.size < 10 || data.size > LONGEST_INTX) return null;
  const bytes = await ntfs.value(data, LONGEST_INTX);
  return bytes.toString('latin1', 0, 8) === LINK_MAGIC ? bytes.toString('utf16le', 8) : null;
}

function fileOf(
  ntfs: Ntfs,
  record: Record,
  attributes: Attributes,
  data: WholeAttribute,
  reparse: Reparse | null,
): VolumeFile {
  return {
    ...attributes,
    kind: 'file',
    size: data.size,
    allocated: data.allocated,
    open: () => fileContent(ntfs, record, data, reparse),
  };
}

const streamOf =
  (ntfs: Ntfs, record: Record, attributes: Attributes) =>
  async (name: string): Promise<VolumeFile | null> => {
    const data = name === '' ? null : await ntfs.attribute(record, TYPE.data, name);
    return data === null ? null : fileOf(ntfs, record, attributes, data, null);
  };

/** Names for DOS stand beside the others in a record, and are counted by it. */
function linksOf({ attributes, links }: Record): number {
  if (attributes.some(({ type }) => type === TYPE.list)) return Math.max(1, links);
  const short = attributes.filter(
    ({ type, resident }) => type === TYPE.name && resident?.[65] === NAMESPACE_DOS,
  ).length;
  return Math.max(1, links - short);
}

export async function nodeOf(ntfs: Ntfs, number: number): Promise<VolumeNode> {
  const record = await ntfs.record(number);
  ntfs.source.check((record.flags & FLAG_IN_USE) !== 0, `file record ${number} is not in use`);
  const { mtime, flags } = standardOf(ntfs, record);
  const dir = (record.flags & FLAG_DIR) !== 0;
  const mode = dir ? 0o755 : (flags & ATTRIBUTE_READ_ONLY) !== 0 ? 0o444 : 0o644;
  const xattrs = () => xattrsOf(ntfs, record);
  const attributes: Attributes = { mtime, mode, uid: 0, gid: 0, links: dir ? 1 : linksOf(record), xattrs };
  const reparse = await readReparse(ntfs, record);
  if (reparse !== null && isLink(reparse.tag)) {
    return { ...attributes, kind: 'link', target: async () => linkTarget(ntfs.source, reparse) };
  }
  const stream = streamOf(ntfs, record, attributes);
  const several = record.attributes.some(({ type, name }) => type === TYPE.list || (type === TYPE.data && name !== ''));
  const streams = several ? { streams: () => ntfs.streams(record) } : {};
  if (dir) {
    const names = { list: () => list(ntfs, record), lookup: (name: string) => lookup(ntfs, record, name) };
    return { ...attributes, kind: 'dir', id: String(number), ...names, stream, ...streams };
  }
  const data = await ntfs.attribute(record, TYPE.data, '');
  const target = await interixLink(ntfs, flags, data);
  if (target !== null) return { ...attributes, kind: 'link', target: async () => target };
  const content = ntfs.source.need(data, `file record ${number} has no content`);
  const id = attributes.links > 1 ? { id: String(number) } : {};
  return { ...fileOf(ntfs, record, attributes, content, reparse), ...id, stream, ...streams };
}

export async function rootOf(ntfs: Ntfs): Promise<VolumeDir> {
  const root = await nodeOf(ntfs, ROOT);
  return ntfs.source.need(root.kind === 'dir' ? root : null, 'the root is no folder');
}

/** Entries of one node of the index; its children are read as blocks, in any order. `bytes` starts at the node's header. */
function entriesIn(ntfs: Ntfs, folder: number, bytes: Buffer, out: Map<string, VolumeEntry>): void {
  for (const { at } of entriesOf(ntfs, bytes, `folder ${folder}`)) {
    const keyLength = bytes.readUInt16LE(at + 10);
    if (keyLength < 66) continue;
    const key = bytes.subarray(at + 16, at + 16 + keyLength);
    const number = referenceAt(bytes, at);
    const nameLength = key[64]! * 2;
    ntfs.source.check(66 + nameLength <= keyLength, `a name in folder ${folder} is longer than its entry`);
    if (key[65] !== NAMESPACE_DOS && (number >= FIRST_USER_RECORD || folder !== ROOT)) {
      const name = key.toString('utf16le', 66, 66 + nameLength);
      out.set(name, new NumberedEntry(name, kindOf(key), ntfs, number, nodeOf));
    }
  }
}

function kindOf(key: Buffer): EntryKind {
  const flags = key.readUInt32LE(56);
  if ((flags & ATTRIBUTE_REPARSE) !== 0 && isLink(key.readUInt32LE(60))) return 'link';
  return (flags & NAME_IS_DIR) !== 0 ? 'dir' : 'file';
}

async function list(ntfs: Ntfs, record: Record): Promise<readonly VolumeEntry[]> {
  const out = new Map<string, VolumeEntry>();
  const bounds = { largest: LARGEST_INDEX, largestBitmap: LARGEST_BITMAP };
  const index = { record, name: NAMES, what: `folder ${record.number}`, ...bounds };
  await eachNode(ntfs, index, bytes => entriesIn(ntfs, record.number, bytes, out));
  return [...out.values()];
}

async function lookup(ntfs: Ntfs, record: Record, name: string): Promise<VolumeNode | null> {
  const { source, clusterSize } = ntfs;
  const { root, blockSize } = await indexRoot(ntfs, record, NAMES, `folder ${record.number}`);
  const allocation = await ntfs.attribute(record, TYPE.indexAllocation, NAMES);
  const blocks = allocation === null ? null : ntfs.content(allocation);
  // Blocks are counted in clusters, or in sectors where a cluster is longer than a block.
  const unit = clusterSize <= blockSize ? clusterSize : 512;
  const child = async (number: number): Promise<Buffer> => {
    const inside = blocks !== null && number * unit + blockSize <= blocks.size;
    source.check(inside, `the index of folder ${record.number} leads outside it`);
    const block = Buffer.allocUnsafe(blockSize);
    await blocks!.read(block, number * unit);
    return fixedUp(source, block, 'INDX').subarray(24);
  };
  const node = await nodeWith(ntfs, await ntfs.capitals(), name, root, child);
  if (node === null) return null;
  const found = new Map<string, VolumeEntry>();
  entriesIn(ntfs, record.number, node, found);
  // Names that differ in case alone can lie in other nodes: then all of them are looked through.
  const entry = found.get(name) ?? (await list(ntfs, record)).find(other => other.name === name);
  return (await entry?.node()) ?? null;
}

/** The volume's name, as UTF-16. */
export async function labelOf(ntfs: Ntfs): Promise<string> {
  const record = await ntfs.record(3);
  const label = record.attributes.find(({ type }) => type === TYPE.volumeName)?.resident;
  return label === undefined || label === null ? '' : nameOf(Buffer.from(label.toString('utf16le')));
}

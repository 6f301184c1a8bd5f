/** ISO 9660 with Rock Ridge or Joliet. Sources: ECMA-119; "Joliet Specification", Microsoft; RRIP 1.12. */

import type { Bytes } from '../../base/contracts.ts';
import { TYPE_BITS, TYPE_MASK } from '../../base/file-types.ts';
import { runsContent } from '../content.ts';
import type {
  Attributes,
  FileContent,
  Volume,
  VolumeDir,
  VolumeEntry,
  VolumeNode,
  VolumeReader,
} from '../contracts.ts';
import { fieldText, nameOf } from '../names.ts';
import { runsBuilder } from '../runs.ts';
import type { VolumeSource } from '../source.ts';
import { type RockRidge, rockRidge } from './rock-ridge.ts';
import { shortTime } from './time.ts';

const SECTOR = 2048;
const FIRST_DESCRIPTOR = 16;
const MOST_DESCRIPTORS = 64;
const PRIMARY = 1;
const SUPPLEMENTARY = 2;
const TERMINATOR = 255;
/** Escape sequences of UCS-2, levels 1 to 3. */
const JOLIET = new Set(['%/@', '%/C', '%/E']);
const RECORD = 34;
const FLAG_DIR = 2;
const FLAG_ASSOCIATED = 4;
const FLAG_GOES_ON = 0x80;
const LARGEST_FOLDER = 2 ** 28;

interface Extent {
  readonly at: Bytes;
  readonly size: Bytes;
}

interface Item {
  readonly name: string;
  readonly dir: boolean;
  readonly extents: readonly Extent[];
  readonly mtime: Date;
  readonly interleaved: boolean;
  readonly rock: RockRidge | null;
}

interface Iso {
  readonly source: VolumeSource;
  readonly blockSize: number;
  readonly joliet: boolean;
  /** Bytes to leave out of each system use field; null: no Rock Ridge. */
  readonly rockSkip: number | null;
}

function extentOf({ blockSize, source }: Iso, record: Buffer): Extent {
  const at = (record.readUInt32LE(2) + record[1]!) * blockSize;
  const size = record.readUInt32LE(10);
  source.check(at + size <= source.size, 'a file leads outside the volume', at);
  return { at, size };
}

/** Without the version, and without the dot of a name that has no extension. */
const plainName = (bytes: Buffer): string => nameOf(bytes).replace(/;\d*$/, '').replace(/\.$/, '');

async function itemOf(iso: Iso, record: Buffer): Promise<Item> {
  const length = record[32]!;
  const nameEnd = 33 + length;
  iso.source.check(nameEnd <= record.length, 'a name leads outside its record');
  const bytes = record.subarray(33, nameEnd);
  const fieldAt = nameEnd + (length % 2 === 0 ? 1 : 0) + (iso.rockSkip ?? 0);
  const rock =
    iso.rockSkip === null ? null : await rockRidge(iso.source, record.subarray(Math.min(fieldAt, record.length)));
  const text = iso.joliet
    ? Buffer.from(bytes.subarray(0, length & ~1))
        .swap16()
        .toString('utf16le')
    : '';
  return {
    name: rock?.name ?? (iso.joliet ? text.replace(/;\d*$/, '') : plainName(bytes)),
    dir: (record[25]! & FLAG_DIR) !== 0,
    extents: [extentOf(iso, record)],
    mtime: rock?.mtime ?? shortTime(record, 18),
    interleaved: record[26] !== 0 || record[27] !== 0,
    rock,
  };
}

/** Records of a folder but for the first two, which are the folder itself and the one above. */
async function itemsOf(iso: Iso, { at, size }: Extent): Promise<readonly Item[]> {
  const { source } = iso;
  source.check(size <= LARGEST_FOLDER, `a folder of ${size} bytes`);
  const bytes = await source.bytes(at, size);
  const items: Item[] = [];
  let goesOn = false;
  for (let pos = 0; pos + RECORD <= size; ) {
    const length = bytes[pos]!;
    if (length === 0) {
      // Records do not cross sectors.
      pos = (Math.floor(pos / SECTOR) + 1) * SECTOR;
      continue;
    }
    source.check(length >= RECORD && pos + length <= size, 'a record of a folder is damaged', at + pos);
    const record = bytes.subarray(pos, pos + length);
    pos += length;
    const special = record[32] === 1 && record[33]! <= 1;
    if (special || (record[25]! & FLAG_ASSOCIATED) !== 0) continue;
    const before = items.at(-1);
    if (goesOn && before !== undefined) {
      items[items.length - 1] = { ...before, extents: [...before.extents, extentOf(iso, record)] };
    } else items.push(await itemOf(iso, record));
    goesOn = (record[25]! & FLAG_GOES_ON) !== 0;
  }
  return items.filter(({ rock }) => rock?.moved !== true);
}

function attributesOf({ mtime, rock, dir }: Item): Attributes {
  const mode = rock?.mode ?? (dir ? 0o755 : 0o644);
  return { mtime, mode: mode & 0o7777, uid: rock?.uid ?? 0, gid: rock?.gid ?? 0, links: rock?.links ?? 1 };
}

function contentOf({ source }: Iso, { extents, interleaved, rock }: Item, size: Bytes): FileContent {
  if (interleaved) throw source.unsupported('an interleaved file');
  if (rock?.packed === true) throw source.unsupported('a compressed file (zisofs)');
  const runs = runsBuilder(source);
  let at = 0;
  for (const extent of extents) {
    if (extent.size > 0) runs.add(at, extent.size, extent.at);
    at += extent.size;
  }
  return runsContent(source, runs.done(), size);
}

function typeOf({ dir, rock }: Item): number {
  if (rock?.target != null) return TYPE_BITS.link;
  return rock?.mode != null ? rock.mode & TYPE_MASK : dir ? TYPE_BITS.dir : TYPE_BITS.file;
}

async function nodeOf(iso: Iso, item: Item): Promise<VolumeNode> {
  const attributes = attributesOf(item);
  const moved = item.rock?.movedTo ?? null;
  if (moved !== null) return movedFolder(iso, moved * iso.blockSize, attributes);
  switch (typeOf(item)) {
    case TYPE_BITS.dir:
      return folderOf(iso, item.extents[0]!, attributes);
    case TYPE_BITS.link:
      return { ...attributes, kind: 'link', target: async () => item.rock?.target ?? '' };
    case TYPE_BITS.file: {
      const size = item.extents.reduce((sum, extent) => sum + extent.size, 0);
      const allocated = Math.ceil(size / iso.blockSize) * iso.blockSize;
      return { ...attributes, kind: 'file', size, allocated, open: async () => contentOf(iso, item, size) };
    }
    default:
      return { ...attributes, kind: 'other' };
  }
}

/** A folder that was moved says its own length in its first record. */
async function movedFolder(iso: Iso, at: Bytes, attributes: Attributes): Promise<VolumeNode> {
  const first = await iso.source.bytes(at, RECORD);
  const extent = extentOf(iso, first);
  iso.source.check(extent.at === at, 'a folder that was moved is not where it should be', at);
  return folderOf(iso, extent, attributes);
}

function folderOf(iso: Iso, extent: Extent, attributes: Attributes): VolumeDir {
  return {
    ...attributes,
    kind: 'dir',
    id: String(extent.at),
    list: async () =>
      (await itemsOf(iso, extent)).map((item): VolumeEntry => {
        const type = item.rock?.movedTo != null ? TYPE_BITS.dir : typeOf(item);
        const kind =
          type === TYPE_BITS.dir
            ? 'dir'
            : type === TYPE_BITS.link
              ? 'link'
              : type === TYPE_BITS.file
                ? 'file'
                : 'other';
        return { name: item.name, kind, node: () => nodeOf(iso, item) };
      }),
  };
}

interface Descriptors {
  readonly primary: Buffer;
  readonly joliet: Buffer | null;
}

/** null: no ISO 9660. */
async function descriptorsOf(source: VolumeSource): Promise<Descriptors | null> {
  let primary: Buffer | null = null;
  let joliet: Buffer | null = null;
  for (let n = FIRST_DESCRIPTOR; n < FIRST_DESCRIPTOR + MOST_DESCRIPTORS && (n + 1) * SECTOR <= source.size; n++) {
    const sector = await source.bytes(n * SECTOR, SECTOR);
    if (sector.toString('latin1', 1, 6) !== 'CD001' || sector[0] === TERMINATOR) break;
    if (sector[0] === PRIMARY) primary ??= sector;
    else if (sector[0] === SUPPLEMENTARY && JOLIET.has(sector.toString('latin1', 88, 91))) joliet ??= sector;
  }
  return primary === null ? null : { primary, joliet };
}

/** What the first record of the root says: how many bytes to leave out, where Rock Ridge is used. */
async function rockRidgeIn(iso: Iso, root: Extent): Promise<number | null> {
  if (root.size < RECORD) return null;
  const sector = await iso.source.bytes(root.at, Math.min(root.size, SECTOR));
  const field = sector.subarray(RECORD, sector[0]!);
  const marked = field.length >= 7 && field.toString('latin1', 0, 2) === 'SP' && field[4] === 0xbe && field[5] === 0xef;
  if (!marked) return null;
  // SUSP alone is not enough: names or modes have to be there.
  const { mode } = await rockRidge(iso.source, field);
  return mode === null ? null : field[6]!;
}

export const iso: VolumeReader = {
  name: 'iso',
  async open(source): Promise<Volume | null> {
    const found = await descriptorsOf(source);
    if (found === null) return null;
    const blockSize = found.primary.readUInt16LE(128);
    source.check([512, 1024, 2048].includes(blockSize), `blocks of ${blockSize} bytes`, FIRST_DESCRIPTOR * SECTOR);
    const plain: Iso = { source, blockSize, joliet: false, rockSkip: null };
    const rockSkip = await rockRidgeIn(plain, extentOf(plain, found.primary.subarray(156, 190)));
    const joliet = rockSkip === null && found.joliet !== null;
    const its: Iso = { source, blockSize, joliet, rockSkip };
    const descriptor = joliet ? found.joliet! : found.primary;
    const record = descriptor.subarray(156, 190);
    const root: Attributes = { mtime: shortTime(record, 18), mode: 0o755, uid: 0, gid: 0, links: 1 };
    const label = joliet
      ? Buffer.from(descriptor.subarray(40, 72)).swap16().toString('utf16le').replace(/\0.*$/s, '').trim()
      : fieldText(descriptor.subarray(40, 72));
    return { type: 'iso9660', label, warnings: [], root: folderOf(its, extentOf(its, record), root) };
  },
};

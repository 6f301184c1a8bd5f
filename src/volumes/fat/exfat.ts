/** exFAT. Source: Microsoft, "exFAT file system specification". */
import type { Bytes } from '../../base/contracts.ts';
import { struct, u8, u16le, u32le } from '../../base/struct.ts';
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
import type { FoundFree } from '../free.ts';
import { type Runs, runsBuilder } from '../runs.ts';
import { u64 } from '../source.ts';
import { chainRuns, dosTime, type FatGeometry, LONGEST_FOLDER, straightRuns } from './chain.ts';
import { freeByBitmap } from './free.ts';

const BootSector = struct('exFAT boot sector', 512, {
  fatSector: [80, u32le],
  fatSectors: [84, u32le],
  heapSector: [88, u32le],
  clusters: [92, u32le],
  rootCluster: [96, u32le],
  flags: [106, u16le],
  sectorShift: [108, u8],
  clusterShift: [109, u8],
  tables: [110, u8],
});

const ENTRY = 32;
const TYPE_BITMAP = 0x81;
const TYPE_LABEL = 0x83;
const TYPE_FILE = 0x85;
const TYPE_STREAM = 0xc0;
const TYPE_NAME = 0xc1;
const FLAG_NO_CHAIN = 2;
/** Flags of the volume. */
const SECOND_TABLE = 1;
const DIRTY = 2;

interface Item {
  readonly name: string;
  readonly dir: boolean;
  readonly cluster: number;
  readonly size: Bytes;
  /** Written so far; zeros from there on. */
  readonly valid: Bytes;
  readonly straight: boolean;
  readonly attributes: Attributes;
}

/** Checksum of an entry set, which skips itself. */
function setSum(set: Buffer): number {
  let sum = 0;
  for (let i = 0; i < set.length; i++) {
    if (i !== 2 && i !== 3) sum = (((sum & 1) << 15) + (sum >> 1) + set[i]!) & 0xffff;
  }
  return sum;
}

/** Local time with hundredths and an offset from UTC in quarters of an hour. */
function timeOf(set: Buffer): Date {
  const zone = set[23]!;
  const minutes = (zone & 0x80) !== 0 ? (((zone & 0x7f) << 25) >> 25) * 15 : 0;
  return new Date(dosTime(set.readUInt16LE(14), set.readUInt16LE(12), set[21]!).getTime() - minutes * 60_000);
}

/** An entry set that is whole; null: torn, deleted, or of another kind. */
function itemOf(set: Buffer): Item | null {
  if (set.length < 3 * ENTRY || set[ENTRY] !== TYPE_STREAM || setSum(set) !== set.readUInt16LE(2)) return null;
  let name = '';
  for (let at = 2 * ENTRY; at < set.length && set[at] === TYPE_NAME; at += ENTRY) {
    name += set.toString('utf16le', at + 2, at + ENTRY);
  }
  name = name.slice(0, set[ENTRY + 3]!);
  if (name === '') return null;
  const flags = set.readUInt16LE(4);
  const dir = (flags & 0x10) !== 0;
  const mode = dir ? 0o755 : (flags & 1) !== 0 ? 0o444 : 0o644;
  return {
    name,
    dir,
    cluster: set.readUInt32LE(ENTRY + 20),
    size: u64(set, ENTRY + 24),
    valid: u64(set, ENTRY + 8),
    straight: (set[ENTRY + 1]! & FLAG_NO_CHAIN) !== 0,
    attributes: { mtime: timeOf(set), mode, uid: 0, gid: 0, links: 1 },
  };
}

function scan(folder: Buffer): { readonly items: readonly Item[]; readonly label: string } {
  const items: Item[] = [];
  let label = '';
  for (let at = 0; at + ENTRY <= folder.length && folder[at] !== 0; at += ENTRY) {
    const type = folder[at]!;
    if (type === TYPE_LABEL) label = folder.toString('utf16le', at + 2, at + 2 + 2 * Math.min(11, folder[at + 1]!));
    if (type !== TYPE_FILE) continue;
    const length = ENTRY * (folder[at + 1]! + 1);
    const item = itemOf(folder.subarray(at, at + length));
    if (item === null) continue;
    items.push(item);
    at += length - ENTRY;
  }
  return { items, label };
}

async function runsOf(geometry: FatGeometry, { cluster, size, straight }: Item): Promise<Runs> {
  const { source, clusterSize } = geometry;
  source.check(Number.isSafeInteger(size), 'a file of no sound size');
  if (size === 0) return runsBuilder(source).done();
  if (straight) return straightRuns(geometry, cluster, size);
  return chainRuns(geometry, cluster, Math.ceil(size / clusterSize));
}

async function folderBytes(geometry: FatGeometry, folder: Item | null, rootCluster: number): Promise<Buffer> {
  const { source, clusters } = geometry;
  // The root alone has no size: its chain ends it.
  const runs = folder === null ? await chainRuns(geometry, rootCluster, clusters + 1) : await runsOf(geometry, folder);
  let size = 0;
  for (let i = 0; i < runs.count; i++) size += runs.run(i).length;
  source.check(size <= LONGEST_FOLDER, `a folder of ${size} bytes`);
  const into = Buffer.allocUnsafe(size);
  await runsContent(source, runs, size).read(into, 0);
  return into;
}

function nodeOf(geometry: FatGeometry, item: Item): VolumeNode {
  const { source, clusterSize } = geometry;
  const { attributes, size, valid, cluster } = item;
  source.check(Number.isSafeInteger(size) && Number.isSafeInteger(valid), 'a file of no sound size');
  if (item.dir) return folderOf(geometry, item, attributes, cluster);
  const open = async (): Promise<FileContent> => runsContent(source, await runsOf(geometry, item), size, valid);
  return { ...attributes, kind: 'file', size, allocated: Math.ceil(size / clusterSize) * clusterSize, open };
}

function folderOf(geometry: FatGeometry, folder: Item | null, attributes: Attributes, cluster: number): VolumeDir {
  return {
    ...attributes,
    kind: 'dir',
    id: String(cluster),
    list: async () =>
      scan(await folderBytes(geometry, folder, cluster)).items.map(
        (item): VolumeEntry => ({
          name: item.name,
          kind: item.dir ? 'dir' : 'file',
          node: async () => nodeOf(geometry, item),
        }),
      ),
  };
}

export const exfat: VolumeReader = {
  name: 'exfat',
  async open(source): Promise<Volume | null> {
    if (source.size < 512) return null;
    const sector = await source.bytes(0, 512);
    if (sector.toString('latin1', 3, 11) !== 'EXFAT   ') return null;
    const boot = BootSector.parse(sector, 0, source.name);
    const { sectorShift, clusterShift, clusters, rootCluster, tables } = boot;
    const shifts = sectorShift >= 9 && sectorShift <= 12 && sectorShift + clusterShift <= 25;
    source.check(shifts, `sectors of 2^${sectorShift} and clusters of 2^${sectorShift + clusterShift} bytes`, 108);
    const sectorSize = 2 ** sectorShift;
    const second = (boot.flags & SECOND_TABLE) !== 0 && tables === 2;
    const geometry: FatGeometry = {
      source,
      bits: 32,
      fatAt: (boot.fatSector + (second ? boot.fatSectors : 0)) * sectorSize,
      dataAt: boot.heapSector * sectorSize,
      clusterSize: sectorSize * 2 ** clusterShift,
      clusters,
    };
    const end = geometry.dataAt + clusters * geometry.clusterSize;
    source.check(end <= source.size, 'the file system is larger than its partition', 92);
    const { label } = scan(await folderBytes(geometry, null, rootCluster));
    const root: Attributes = { mtime: new Date(0), mode: 0o755, uid: 0, gid: 0, links: 1 };
    const whole = folderOf(geometry, null, root, rootCluster);
    const free = async (found: FoundFree): Promise<void> => {
      // The bitmap may say less than is in use then.
      source.check((boot.flags & DIRTY) === 0, 'it was in use when the backup was made', 106);
      if (tables !== 1 || (boot.flags & SECOND_TABLE) !== 0) throw source.unsupported('it has two tables', 106);
      const entries = await folderBytes(geometry, null, rootCluster);
      for (let at = 0; at + ENTRY <= entries.length && entries[at] !== 0; at += ENTRY) {
        if (entries[at] !== TYPE_BITMAP) continue;
        await freeByBitmap(geometry, entries.readUInt32LE(at + 20), u64(entries, at + 24), found);
        return;
      }
      source.check(false, 'it has no map of clusters');
    };
    return { type: 'exfat', label, warnings: [], root: whole, free };
  },
};

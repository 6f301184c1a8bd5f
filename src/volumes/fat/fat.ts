/**
 * FAT12, FAT16 and FAT32 with long names. Source: Microsoft, "FAT32 File System Specification" (fatgen103). Short names
 * are read as code page 437.
 */
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
import { type Runs, runsBuilder } from '../runs.ts';
import type { VolumeSource } from '../source.ts';
import { chainRuns, dosTime, type FatGeometry, LONGEST_FOLDER } from './chain.ts';
import { checkShutDown, freeByTable } from './free.ts';

const BootSector = struct('FAT boot sector', 90, {
  sectorSize: [11, u16le],
  clusterSectors: [13, u8],
  reservedSectors: [14, u16le],
  tables: [16, u8],
  rootEntries: [17, u16le],
  sectors16: [19, u16le],
  media: [21, u8],
  tableSectors16: [22, u16le],
  sectors32: [32, u32le],
  tableSectors32: [36, u32le],
  extendedFlags: [40, u16le],
  rootCluster: [44, u32le],
});

const ENTRY = 32;
const ATTRIBUTE_READ_ONLY = 0x01;
const ATTRIBUTE_VOLUME = 0x08;
const ATTRIBUTE_DIR = 0x10;
const ATTRIBUTE_LONG = 0x0f;
const DELETED = 0xe5;
const LAST_LONG = 0x40;
const LOWER_BASE = 0x08;
const LOWER_EXTENSION = 0x10;

const CP437 =
  'ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0';
const oemText = (bytes: Uint8Array): string =>
  Array.from(bytes, c => (c < 0x80 ? String.fromCharCode(c) : CP437[c - 0x80]!)).join('');

interface Fat {
  readonly geometry: FatGeometry;
  /** Where each copy of the table begins. */
  readonly tables: readonly Bytes[];
  /** Of FAT12 and FAT16, which lies before the clusters; null: a chain like all others. */
  readonly fixedRoot: Runs | null;
  readonly rootCluster: number;
  readonly rootEntries: number;
}

function readBootSector(source: VolumeSource, sector: Buffer): Fat | null {
  if (sector.readUInt16LE(510) !== 0xaa55 || sector.toString('latin1', 3, 11) === 'NTFS    ') return null;
  const boot = BootSector.parse(sector, 0, source.name);
  const { sectorSize, clusterSectors, reservedSectors, tables, rootEntries, media } = boot;
  const powerOfTwo = clusterSectors !== 0 && (clusterSectors & (clusterSectors - 1)) === 0;
  if (![512, 1024, 2048, 4096].includes(sectorSize) || !powerOfTwo || media < 0xf0) return null;
  if (reservedSectors === 0 || tables === 0 || tables > 4) return null;
  const sectors = boot.sectors16 || boot.sectors32;
  const tableSectors = boot.tableSectors16 || boot.tableSectors32;
  const rootSectors = Math.ceil((rootEntries * ENTRY) / sectorSize);
  const dataSector = reservedSectors + tables * tableSectors + rootSectors;
  if (tableSectors === 0 || dataSector >= sectors) return null;
  const clusters = Math.floor((sectors - dataSector) / clusterSectors);
  // The number of clusters decides, whatever the text in the boot sector says; only FAT32 leaves the 16-bit length of its
  // tables at 0, and there are FAT32 volumes with fewer clusters than Microsoft allows.
  const bits = boot.tableSectors16 === 0 ? 28 : clusters < 4085 ? 12 : 16;
  const width = bits === 28 ? 32 : bits;
  source.check(
    ((clusters + 2) * width) / 8 <= tableSectors * sectorSize,
    'the table is too short for its clusters',
    11,
  );
  // Partitions were rounded to whole tracks; what lies in such a missing end is found when it is read.
  source.check((sectors - 63) * sectorSize <= source.size, 'the file system is larger than its partition', 19);
  const noMirror = bits === 28 && (boot.extendedFlags & 0x80) !== 0 ? boot.extendedFlags & 15 : 0;
  source.check(noMirror < tables, `table ${noMirror} of ${tables} is said to be in use`, 40);
  const fatAt = (reservedSectors + noMirror * tableSectors) * sectorSize;
  const geometry: FatGeometry = {
    source,
    bits,
    fatAt,
    dataAt: dataSector * sectorSize,
    clusterSize: clusterSectors * sectorSize,
    clusters,
  };
  const copies = Array.from({ length: tables }, (_, i) => (reservedSectors + i * tableSectors) * sectorSize);
  if (bits === 28) return { geometry, tables: copies, fixedRoot: null, rootCluster: boot.rootCluster, rootEntries: 0 };
  const root = runsBuilder(source);
  if (rootSectors > 0) root.add(0, rootSectors * sectorSize, (reservedSectors + tables * tableSectors) * sectorSize);
  return { geometry, tables: copies, fixedRoot: root.done(), rootCluster: 0, rootEntries };
}

/** One entry of a folder, with its long name put together. */
interface Item {
  readonly name: string;
  readonly dir: boolean;
  readonly cluster: number;
  readonly size: Bytes;
  readonly attributes: Attributes;
}

const attributesOf = (mtime: Date, dir: boolean, readOnly: boolean): Attributes => ({
  mtime,
  mode: dir ? 0o755 : readOnly ? 0o444 : 0o644,
  uid: 0,
  gid: 0,
  links: 1,
});

/** Checksum over the 11 bytes of a short name, which its long name's parts carry. */
function shortSum(entry: Buffer): number {
  let sum = 0;
  for (let i = 0; i < 11; i++) sum = (((sum & 1) << 7) + (sum >> 1) + entry[i]!) & 0xff;
  return sum;
}

function shortName(entry: Buffer): string {
  const bytes = Buffer.from(entry.subarray(0, 11));
  if (bytes[0] === 5) bytes[0] = DELETED;
  const base = oemText(bytes.subarray(0, 8)).trimEnd();
  const extension = oemText(bytes.subarray(8)).trimEnd();
  const lower = (text: string, bit: number): string => ((entry[12]! & bit) !== 0 ? text.toLowerCase() : text);
  const name = lower(base, LOWER_BASE);
  return extension === '' ? name : `${name}.${lower(extension, LOWER_EXTENSION)}`;
}

/** Long names come before their entry, last part first. */
class LongName {
  #parts: string[] = [];
  #sum = -1;
  #next = 0;

  clear(): void {
    this.#next = 0;
    this.#parts = [];
  }

  add(entry: Buffer): void {
    const number = entry[0]! & 0x3f;
    if ((entry[0]! & LAST_LONG) !== 0) {
      this.#parts = [];
      this.#sum = entry[13]!;
      this.#next = number;
    }
    if (number === 0 || number !== this.#next || entry[13] !== this.#sum) {
      this.clear();
      return;
    }
    this.#next--;
    const text = [
      entry.toString('utf16le', 1, 11),
      entry.toString('utf16le', 14, 26),
      entry.toString('utf16le', 28, 32),
    ];
    this.#parts.unshift(text.join(''));
  }

  /** The whole name, if it belongs to this short entry; empty otherwise. */
  take(entry: Buffer): string {
    const whole = this.#parts.length > 0 && this.#next === 0 && this.#sum === shortSum(entry);
    const name = whole ? this.#parts.join('').replace(/[\0\uffff].*$/s, '') : '';
    this.clear();
    return name;
  }
}

interface Scanned {
  readonly items: readonly Item[];
  /** The volume's name, where the folder is the root and has one. */
  readonly label: string;
}

function scan(fat: Fat, folder: Buffer): Scanned {
  const items: Item[] = [];
  const long = new LongName();
  let label = '';
  for (let at = 0; at + ENTRY <= folder.length; at += ENTRY) {
    const entry = folder.subarray(at, at + ENTRY);
    if (entry[0] === 0) break;
    const attributes = entry[11]!;
    if (entry[0] === DELETED) long.clear();
    else if ((attributes & 0x3f) === ATTRIBUTE_LONG) long.add(entry);
    else if ((attributes & ATTRIBUTE_VOLUME) !== 0) {
      label = oemText(entry.subarray(0, 11)).trim();
      long.clear();
    } else {
      const name = long.take(entry) || shortName(entry);
      if (name === '.' || name === '..' || name === '') continue;
      const high = fat.geometry.bits === 28 ? entry.readUInt16LE(20) : 0;
      const dir = (attributes & ATTRIBUTE_DIR) !== 0;
      const mtime = dosTime(entry.readUInt16LE(24), entry.readUInt16LE(22));
      items.push({
        name,
        dir,
        cluster: entry.readUInt16LE(26) + high * 0x1_0000,
        size: entry.readUInt32LE(28),
        attributes: attributesOf(mtime, dir, (attributes & ATTRIBUTE_READ_ONLY) !== 0),
      });
    }
  }
  return { items, label };
}

async function folderBytes(fat: Fat, cluster: number): Promise<Buffer> {
  const { source, clusterSize, clusters } = fat.geometry;
  const most = Math.floor(LONGEST_FOLDER / clusterSize);
  // A folder has no size of its own: its chain ends it.
  const runs =
    cluster === 0 && fat.fixedRoot !== null
      ? fat.fixedRoot
      : await chainRuns(fat.geometry, cluster, Math.max(clusters + 1, most));
  let size = 0;
  for (let i = 0; i < runs.count; i++) size += runs.run(i).length;
  source.check(size <= LONGEST_FOLDER, `a folder of ${size} bytes`);
  const into = Buffer.allocUnsafe(size);
  await runsContent(source, runs, size).read(into, 0);
  return into;
}

function nodeOf(fat: Fat, { dir, cluster, size, attributes }: Item): VolumeNode {
  const { clusterSize } = fat.geometry;
  if (dir) return folderOf(fat, cluster, attributes);
  const open = async (): Promise<FileContent> => {
    const count = Math.ceil(size / clusterSize);
    const runs = count === 0 ? runsBuilder(fat.geometry.source).done() : await chainRuns(fat.geometry, cluster, count);
    return runsContent(fat.geometry.source, runs, size);
  };
  return { ...attributes, kind: 'file', size, allocated: Math.ceil(size / clusterSize) * clusterSize, open };
}

function folderOf(fat: Fat, cluster: number, attributes: Attributes): VolumeDir {
  return {
    ...attributes,
    kind: 'dir',
    id: String(cluster),
    list: async () =>
      scan(fat, await folderBytes(fat, cluster)).items.map(
        (item): VolumeEntry => ({
          name: item.name,
          kind: item.dir ? 'dir' : 'file',
          node: async () => nodeOf(fat, item),
        }),
      ),
  };
}

export const fat: VolumeReader = {
  name: 'fat',
  async open(source): Promise<Volume | null> {
    if (source.size < 512) return null;
    const its = readBootSector(source, await source.bytes(0, 512));
    if (its === null) return null;
    const { bits } = its.geometry;
    const { label } = scan(its, await folderBytes(its, its.rootCluster));
    return {
      type: bits === 28 ? 'fat32' : `fat${bits}`,
      label: label === 'NO NAME' ? '' : label,
      warnings: [],
      root: folderOf(its, its.rootCluster, attributesOf(new Date(0), true, false)),
      async free(found) {
        await checkShutDown(its.geometry);
        await freeByTable(its.geometry, its.tables, found);
      },
    };
  },
};

import { createHash } from 'node:crypto';
import path from 'node:path';
import type {
  Adapter,
  Confidence,
  Image,
  ImageDisk,
  ImagePoint,
  LayerId,
  Scratch,
  Store,
  Verified,
  VerifyRun,
} from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { assembleImage, type ImageParts, lonePart } from './disks.ts';
import { type Folder, openFolder, pieceName, streamOf, textFile } from './folder.ts';

/** Clonezilla writes it into every image: the names of the saved partitions. */
const PARTS = 'parts';
const baseOf = (name: string): string => name.slice(name.lastIndexOf('/') + 1);

/** Name of the folder that the image fills. The top of a store is called as the user did. */
function nameOf({ store, path: within }: Folder): string {
  if (within !== '') return baseOf(within.slice(0, -1));
  const top = path.resolve(store.label);
  return path.basename(path.basename(top) === PARTS ? path.dirname(top) : top);
}

/** When the image was made, by Clonezilla's log, else by the name that it proposes for the folder (in local time). */
async function timeOf(folder: Folder): Promise<Date | null> {
  const log = folder.entries.get('clonezilla-img');
  const said = log !== undefined && log.size <= 2 ** 20 ? await textFile(folder, 'clonezilla-img') : null;
  const start = /(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d) (?:UTC|GMT)/.exec(said ?? '');
  const name = /(\d{4}-\d\d-\d\d)-(\d\d)(?:-(\d\d))?-/.exec(nameOf(folder));
  const text =
    start !== null ? `${start[1]}T${start[2]}Z` : name !== null ? `${name[1]}T${name[2]}:${name[3] ?? '00'}:00Z` : null;
  const time = text === null ? null : new Date(text);
  return time === null || Number.isNaN(time.getTime()) ? null : time;
}

/** Names, lengths and times of all files, and the headers of the volumes. */
function identityOf(folder: Folder, { volumes }: ImageParts): string {
  const hash = createHash('sha256');
  for (const own of [...folder.entries.keys()].toSorted()) {
    const { size, modified } = folder.entries.get(own)!;
    hash.update(`${own} ${size} ${modified.getTime()}\n`);
  }
  hash.update(JSON.stringify(volumes.map(({ name, saved }) => [name, saved.header])));
  return `clonezilla:${hash.digest('hex')}`;
}

async function check({ volumes }: ImageParts, run: VerifyRun): Promise<Verified> {
  let checked = 0;
  let bytes = 0;
  const all = volumes.reduce((sum, { saved }) => sum + saved.stored, 0);
  let before = 0;
  let whole = true;
  for (const { name, saved } of volumes) {
    const base = before;
    const progress = (done: number): void => run.progress(Math.min(all, base + Math.min(done, saved.stored)), all);
    const { level, signal } = run;
    const own = await saved.verify({ level, signal, progress, found: problem => run.found(problem) }, name);
    checked += own.checked;
    bytes += own.bytes;
    whole &&= own.whole === true;
    before += saved.stored;
  }
  return { checked, bytes, whole };
}

const closeAll = async ({ volumes, sources }: ImageParts): Promise<void> => {
  for (const { saved } of volumes) await saved[Symbol.asyncDispose]();
  for (const source of sources) await source[Symbol.asyncDispose]();
};

function imageOf(name: string, folder: Folder, time: Date | null, parts: ImageParts): Image {
  const disks: readonly ImageDisk[] = parts.disks.map(({ name: disk, size, sectorSize, stored, layer }) => ({
    name: disk,
    size,
    sectorSize,
    stored,
    layer: parts.problem === null ? layer : null,
  }));
  const point: ImagePoint = {
    id: `clonezilla:${name}` as LayerId,
    parent: null,
    // Else the core does.
    set: folder.path === '' && baseOf(name) === PARTS ? nameOf(folder) : null,
    time,
    type: 'full',
    disks,
    identity: identityOf(folder, parts),
    problem: parts.problem,
  };
  return {
    adapter: 'clonezilla',
    name,
    encrypted: false,
    points: [point],
    warnings: parts.warnings,
    ...(parts.problem === null ? { verify: (run: VerifyRun) => check(parts, run) } : {}),
    [Symbol.asyncDispose]: () => closeAll(parts),
  };
}

/** A file that belongs to an image and is opened with it. */
const member = (name: string): Image => ({
  adapter: 'clonezilla',
  name,
  encrypted: false,
  points: [],
  warnings: [],
  async [Symbol.asyncDispose]() {},
});

async function openImage(name: string, store: Store, scratch: Scratch | undefined): Promise<Image> {
  const folder = await openFolder(store, name);
  const own = baseOf(name);
  if (own === PARTS) {
    const names = ((await textFile(folder, PARTS)) ?? '').split(/\s+/).filter(part => part !== '');
    return imageOf(name, folder, await timeOf(folder), await assembleImage(folder, names, scratch));
  }
  if (folder.entries.has(PARTS)) return member(name);
  const piece = pieceName(own);
  if (piece === null) return member(name);
  // A partition without the image around it: its first piece stands for it.
  const stream = streamOf(folder, piece.part);
  if (stream === null) throw new ImageError('not-found', 'no such file', { file: name });
  if (stream.pieces[0]!.name !== name) return member(name);
  return imageOf(name, folder, await timeOf(folder), await lonePart(folder, stream, scratch));
}

const NAMES = /^[\w!.+-]{1,64}$/;
/** Sectors that Clonezilla saves beside the partitions, which other formats could take for disks. */
const SECTORS = /-(?:mbr|gpt-1st|gpt-2nd|hidden-data-after-mbr|ebr)$/;

function probe(head: Uint8Array, _tail: Uint8Array, name: string): Confidence {
  const own = baseOf(name);
  if (pieceName(own) !== null) return 'certain';
  if (SECTORS.test(own) && head.length >= 512) return 'certain';
  if (own !== PARTS || head.length === 0 || head.length > 4096) return 'no';
  const names = Buffer.from(head).toString('latin1').trim().split(/\s+/);
  return names.every(part => NAMES.test(part)) ? 'certain' : 'no';
}

/** What Clonezilla writes beside the partitions of an image: tables, sectors, lists and notes. */
const BESIDE =
  /^(?:disk|clonezilla-img|Info-.+\.txt|(?:blkdev|blkid|dev-fs|luks-dev|lvm_.+)\.(?:list|conf)|efi-nvram\.dat|swappt-.+\.info|(?:MD5|SHA1|SHA256|SHA512|B2)SUMS|.+-(?:chs\.sf|pt\.(?:sf|parted|parted\.compact)|gpt\.s?gdisk|mbr|gpt-1st|gpt-2nd|hidden-data-after-mbr|ebr|multipath\.list))$/;

function owns(name: string, has: (name: string) => boolean): boolean {
  const own = baseOf(name);
  if (own === PARTS || !has(name.slice(0, name.length - own.length) + PARTS)) return false;
  return BESIDE.test(own) || pieceName(own) !== null;
}

/**
 * Reads Clonezilla images: each disk put together from its partitions and its partition table. Compressed partitions
 * are unpacked into scratch space when they are first read, once; without any the image is listed, and says how to unpack
 * them.
 */
export const clonezilla: Adapter = {
  name: 'clonezilla',
  title: 'Clonezilla',
  extensions: [],
  supports: { differencing: false, encryption: false, compression: true, write: false },
  probe,
  owns,
  open: (name, store, _keys, scratch) => openImage(name, store, scratch),
};

import { createHash } from 'node:crypto';
import type {
  Adapter,
  ByteSource,
  Bytes,
  Confidence,
  Image,
  ImagePoint,
  Layer,
  LayerId,
  ParentRef,
  PointType,
  Store,
} from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { lazySource } from '../../src/base/lazy.ts';
import { FRAME, type Meta, parseFrame, readMeta } from './frames.ts';
import { type StreamLayer, streamLayer } from './layer.ts';
import { type DataName, type Domain, dataFile, exists, type Level, parseDomain, parseName, readText } from './names.ts';
import { verifyBackup } from './verify.ts';

const TYPES: Readonly<Record<Level, PointType>> = {
  full: 'full',
  copy: 'full',
  inc: 'incremental',
  diff: 'differential',
};

/** One data file of a backup: one disk. */
export interface DataDisk {
  readonly file: string;
  readonly name: string;
  readonly size: Bytes;
  readonly stored: Bytes;
  readonly source: ByteSource;
  readonly layer: Layer;
  /** null: a raw copy of a raw disk. */
  readonly stream: StreamLayer | null;
  readonly meta: Meta | null;
}

function rawLayer(id: LayerId, source: ByteSource): Layer {
  return {
    id,
    size: source.size,
    blockSize: 65_536,
    locate: (at, limit) => ({ kind: 'plain', source, at, length: limit }),
    async load() {},
    unpack: () => Promise.reject(new ImageError('unsupported', 'a raw copy holds no packed blocks')),
  };
}

/** Without a frame at its start a copy is the disk itself: so raw disks are backed up. */
async function openData(file: string, store: Store): Promise<DataDisk> {
  await using opened = await store.open(file);
  const head = new Uint8Array(Math.min(FRAME, opened.size));
  await opened.read(head, 0);
  const named = parseName(file);
  const stored = opened.size;
  const source = lazySource(store, file, stored);
  const id = `virtnbdbackup:${file}` as LayerId;
  if (parseFrame(head) === null && named?.level === 'copy' && stored > 0 && stored % 512 === 0) {
    const layer = rawLayer(id, source);
    return { file, name: named.disk, size: stored, stored, source, layer, stream: null, meta: null };
  }
  const meta = await readMeta(opened);
  const stream = streamLayer(id, source, meta);
  return {
    file,
    name: meta.diskName,
    size: meta.virtualSize,
    stored,
    source,
    layer: stream.layer,
    stream,
    meta,
  };
}

/** Names of the configuration that was saved together with a data file, the likeliest first. */
function configNames({ folder, level, tag }: DataName, meta: Meta | null): readonly string[] {
  const tags = level === 'copy' ? ['copy', 'virtnbdbackup.0'] : level === 'full' ? [meta?.checkpoint ?? ''] : [tag];
  return tags.map(each => `${folder}vmconfig.${each}.xml`);
}

interface Backup {
  readonly domain: Domain | null;
  /** Files of the same backup, one per disk; only the first of them shows the point. */
  readonly files: readonly string[];
}

/**
 * The data files that one backup made together: those of the disks in the configuration that was saved with them. A full
 * backup has its raw disks as copies. Without a configuration a file stands for itself.
 */
async function backupOf(file: string, named: DataName, meta: Meta | null, store: Store): Promise<Backup> {
  let xml: string | null = null;
  for (const name of configNames(named, meta)) xml ??= await readText(store, name);
  if (xml === null) return { domain: null, files: [file] };
  const domain = parseDomain(xml);
  const { folder, level, tag } = named;
  const copiesApart = await exists(store, `${folder}vmconfig.copy.xml`);
  const mixed = (level === 'full' || level === 'copy') && !copiesApart;
  const files: string[] = [];
  for (const disk of domain.disks) {
    const candidates = mixed
      ? [dataFile(folder, disk, 'full', ''), dataFile(folder, disk, 'copy', '')]
      : [dataFile(folder, disk, level, tag)];
    for (const candidate of candidates) {
      if (!(await exists(store, candidate))) continue;
      files.push(candidate);
      break;
    }
  }
  return files.includes(file) ? { domain, files } : { domain, files: [file] };
}

/** The time in the name of a differential, the checkpoint's, or that of the stream as it stands there. */
async function timeOf({ folder, level, tag }: DataName, meta: Meta | null, store: Store): Promise<Date | null> {
  if (level === 'diff' && /^\d{9,11}$/.test(tag)) return new Date(Number(tag) * 1000);
  if (meta === null) return null;
  if (level !== 'copy') {
    const xml = await readText(store, `${folder}checkpoints/${meta.checkpoint}.xml`);
    const seconds = /<creationTime>(\d{1,11})<\/creationTime>/.exec(xml ?? '')?.[1];
    if (seconds !== undefined) return new Date(Number(seconds) * 1000);
  }
  const written = new Date(/[zZ]|[+-]\d\d:\d\d$/.test(meta.date) ? meta.date : `${meta.date}Z`);
  return Number.isNaN(written.getTime()) ? null : written;
}

/** Checkpoints have their names in one folder only; a copy and a differential have no checkpoint of their own. */
function pointId({ folder, level, tag }: DataName, meta: Meta | null): LayerId {
  const own = level === 'copy' ? 'copy' : level === 'diff' ? `diff ${tag}` : `checkpoint ${meta?.checkpoint ?? ''}`;
  return `virtnbdbackup:${folder}${own}` as LayerId;
}

function parentOf({ folder, disk }: DataName, meta: Meta | null): ParentRef | null {
  if (meta?.incremental !== true) return null;
  const parent = meta.parentCheckpoint;
  return {
    by: 'id',
    id: `virtnbdbackup:${folder}checkpoint ${parent}` as LayerId,
    names: [dataFile('', disk, 'inc', parent), dataFile('', disk, 'full', '')],
  };
}

function identityOf(disks: readonly DataDisk[]): string {
  const hash = createHash('sha256');
  for (const { file, meta, stored } of disks) hash.update(`${JSON.stringify([file, stored, meta])}\n`);
  return `virtnbdbackup:${hash.digest('hex')}`;
}

/** A file that shows no point of its own. */
const silent = (name: string, warnings: readonly string[]): Image => ({
  adapter: 'virtnbdbackup',
  name,
  encrypted: false,
  points: [],
  warnings,
  async [Symbol.asyncDispose]() {},
});

async function openBackup(name: string, store: Store): Promise<Image> {
  const named = parseName(name);
  if (named?.partial === true) return silent(name, ['the backup did not come to its end, and is left out']);
  const own = await openData(name, store);
  const place = named ?? { folder: '', disk: own.name, level: 'full', tag: '', partial: false };
  const { domain, files } = await backupOf(name, place, own.meta, store);
  if (files[0] !== name) return silent(name, []);
  const disks = [own];
  for (const file of files.slice(1)) disks.push(await openData(file, store));
  const levels = disks.map(({ file }) => parseName(file)?.level);
  // The backup is a full one when any of its disks is: raw disks are copies in it.
  const lead = disks[levels.indexOf('full')] ?? own;
  const point: ImagePoint = {
    id: pointId(parseName(lead.file) ?? place, lead.meta),
    parent: parentOf(place, own.meta),
    set: domain?.name ?? null,
    time: await timeOf(parseName(lead.file) ?? place, lead.meta, store),
    type: TYPES[place.level],
    disks: disks.map(({ name: disk, size, stored, layer }) => ({ name: disk, size, sectorSize: 512, stored, layer })),
    identity: identityOf(disks),
    problem: null,
  };
  return {
    adapter: 'virtnbdbackup',
    name,
    encrypted: false,
    points: [point],
    warnings: [],
    verify: run => verifyBackup(disks, store, run),
    async [Symbol.asyncDispose]() {
      for (const { source } of disks) await source[Symbol.asyncDispose]();
    },
  };
}

/** Streams by their first frame. A raw copy has only its name. */
function probe(head: Uint8Array, _tail: Uint8Array, name: string): Confidence {
  if (parseFrame(head)?.kind === 'meta') return 'certain';
  const named = parseName(name);
  return named?.level === 'copy' && !named.partial && head.length >= 512 ? 'maybe' : 'no';
}

/** What the product writes beside the data: checksums, checkpoints, configurations, logs. */
function owns(name: string, has: (name: string) => boolean): boolean {
  const sum = /^(.+\.data)\.chksum$/.exec(name)?.[1];
  if (sum !== undefined) return has(sum);
  return /(?:^|\/)(?:vmconfig\.[^/]+\.xml|[^/]+\.qcow\.json|[^/]+\.cpt|checkpoints\/[^/]+\.xml|backup\.[^/]+\.log)$/.test(
    name,
  );
}

/** Reads the folders of virtnbdbackup: the data files of one backup are one point. */
export const virtnbdbackup: Adapter = {
  name: 'virtnbdbackup',
  title: 'virtnbdbackup (libvirt)',
  extensions: ['.data'],
  supports: { differencing: true, encryption: false, compression: true, write: false },
  probe,
  owns,
  open: openBackup,
};

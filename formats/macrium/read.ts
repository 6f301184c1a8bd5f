import { createHash } from 'node:crypto';
import type {
  Adapter,
  ByteSource,
  Bytes,
  Confidence,
  Image,
  ImageDisk,
  ImagePoint,
  Keyring,
  LayerId,
  ParentRef,
  Store,
} from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import type { Origin } from './content.ts';
import type { DiskDescription } from './description.ts';
import { type DiskMetadata, mismatch, openDisk, readMetadata, sizeOf } from './disk.ts';
import { type Files, filesOf, folderOf, type Member } from './files.ts';
import { type Key, unlock } from './keys.ts';
import { endsAsImage, type MetadataList, readList } from './metadata.ts';
import { type Lineage, lineageOf } from './set.ts';
import { verifyFile } from './verify.ts';

export interface MacriumOptions {
  /** Whether what a backup leaves out of a disk (the backup GPT, a missing partition table) is made. */
  readonly completeTables: boolean;
}

interface Access {
  readonly key: Key | null;
  readonly problem: ImageError | null;
}

async function gainAccess({ name, description }: Member, keys: Keyring): Promise<Access> {
  const { encryption, imageId } = description;
  if (encryption === null) return { key: null, problem: null };
  const key = await unlock(keys, encryption, Buffer.from(imageId, 'hex'));
  if (key === 'locked')
    return {
      key: null,
      problem: new ImageError('locked', 'the backup is encrypted and no password was given', { file: name }),
    };
  if (key === 'wrong-key')
    return { key: null, problem: new ImageError('wrong-key', 'no given password opens the backup', { file: name }) };
  return { key, problem: null };
}

/** The same number can be given out again when a set is taken up anew, so the description counts too. */
const idOf = ({ description, digest }: Member): LayerId =>
  `macrium:${description.imageId}:${description.fileNumber}:${digest.slice(0, 8)}` as LayerId;

const baseNameOf = (name: string): string => name.slice(folderOf(name).length);

/** Everything that says what the image holds: the MD5 of the description and of each index covers every block. */
function identityOf(root: MetadataList, disks: readonly DiskMetadata[]): Buffer {
  const digest = createHash('sha256');
  for (const list of [root, ...disks.flatMap(disk => disk.lists)])
    for (const { name, length, md5 } of list.blocks) digest.update(`${name} ${length} `).update(md5);
  return digest.digest();
}

interface Opening {
  readonly options: MacriumOptions;
  readonly files: Files;
  readonly member: Member;
  readonly source: ByteSource;
  readonly lineage: Lineage;
  readonly access: Access;
  readonly disks: readonly DiskMetadata[];
  readonly identity: Buffer;
  readonly signal: AbortSignal;
  readonly warnings: string[];
}

/** What kept the whole point from being read is known before its disks are opened. */
function problemOf({ member, lineage, access }: Opening): ImageError | null {
  const { parent } = lineage;
  const moved = parent === null ? null : mismatch(member.description.disks, parent.description.disks, member.name);
  return lineage.problem ?? moved ?? access.problem;
}

function originOf({ files, member, lineage, access }: Opening): Origin {
  return { files, name: member.name, holder: lineage.holder, key: access.key };
}

async function openLayer(opening: Opening, disk: DiskDescription, i: number) {
  const { member, lineage, source, access, options, identity, signal, warnings, disks } = opening;
  return openDisk({
    id: idOf(member),
    source,
    disk,
    metadata: disks[i]!,
    origin: originOf(opening),
    key: access.key,
    baseSize: lineage.base?.description.disks[i]?.size ?? 0,
    inherited: lineage.parent?.description.disks[i]?.partitions.map(partition => partition.blockCount) ?? null,
    completeTables: options.completeTables,
    identity,
    signal,
    warnings,
  });
}

/** Bytes of data in the file and in the parts that belong to it, shared out by the numbers of their blocks. */
function storedOf({ member, lineage, disks }: Opening): readonly Bytes[] {
  const counts = disks.map(({ indexes }) => indexes.reduce((sum, place) => sum + place.elements.count, 0));
  const all = counts.reduce((sum, count) => sum + count, 0);
  const data = lineage.parts.reduce((sum, part) => sum + part.rootAt, member.description.indexAt);
  return counts.map(count => (all === 0 ? 0 : Math.floor(data * (count / all))));
}

async function pointOf(opening: Opening): Promise<ImagePoint> {
  const { member, lineage, identity } = opening;
  const { description, name } = member;
  const problem = problemOf(opening);
  const stored = storedOf(opening);
  const disks: ImageDisk[] = [];
  for (const [i, disk] of description.disks.entries()) {
    const layer = problem === null ? await openLayer(opening, disk, i) : null;
    const size = layer?.size ?? sizeOf(disk, lineage.base?.description.disks[i]?.size ?? 0, null, name);
    disks.push({ name: `disk${i}`, size, sectorSize: disk.sectorSize, stored: stored[i]!, layer });
  }
  const { machine, imageId, time, type } = description;
  return {
    id: idOf(member),
    parent: parentRef(member, lineage),
    set: machine === null ? imageId : `${machine}-${imageId}`,
    time,
    type,
    disks,
    identity: identity.toString('hex'),
    sealed: true,
    builtOn: lineage.before === null ? null : idOf(lineage.before),
    problem,
  };
}

function parentRef({ description }: Member, { parent }: Lineage): ParentRef | null {
  if (!description.delta) return null;
  if (parent !== null) return { by: 'id', id: idOf(parent), names: [baseNameOf(parent.name)] };
  // Nobody knows the missing file's id; the point's problem says which one it is.
  const before = [...description.history].filter(([number]) => number < description.fileNumber).at(-1);
  const id = `macrium:${description.imageId}:${before?.[0] ?? 0}:missing` as LayerId;
  return { by: 'id', id, names: before === undefined || before[1] === '' ? [] : [before[1]] };
}

const withoutClose = (
  name: string,
  points: readonly ImagePoint[],
  encrypted: boolean,
): Omit<Image, typeof Symbol.asyncDispose> => ({
  adapter: 'macrium',
  name,
  encrypted,
  points,
  warnings: [],
});

/** A part of a split backup is no restore point; without the last part, which has the index, nobody else says so. */
function partPoints(member: Member, set: readonly Member[]): readonly ImagePoint[] {
  const { description, name } = member;
  const { incrementNumber, imageId, machine, time, type } = description;
  const last = set.find(({ description: other }) => !other.split && other.incrementNumber === incrementNumber);
  if (last !== undefined) return [];
  const message = 'a part of a split backup whose last part, which holds the index, is missing';
  return [
    {
      id: idOf(member),
      parent: null,
      set: machine === null ? imageId : `${machine}-${imageId}`,
      time,
      type,
      disks: [],
      identity: member.digest,
      problem: new ImageError('broken-chain', message, { file: name }),
    },
  ];
}

function warningsOf({ version, disks }: Member['description']): string[] {
  const warnings: string[] = [];
  if (version !== 1) warnings.push(`version ${version} of the description is newer than what is known`);
  for (const { number, format } of disks)
    if (format === 'dynamic')
      warnings.push(`disk ${number} is a dynamic disk: its volumes need the Logical Disk Manager`);
  return warnings;
}

function once(close: () => Promise<void>): () => Promise<void> {
  let closing: Promise<void> | null = null;
  return () => {
    closing ??= close();
    return closing;
  };
}

async function openImage(name: string, files: Files, keys: Keyring, options: MacriumOptions): Promise<Image> {
  const member = await files.identify(name);
  const { description } = member;
  const set = await files.setOf(member);
  const encrypted = description.encryption !== null;
  if (description.split) {
    return {
      ...withoutClose(name, partPoints(member, set), encrypted),
      [Symbol.asyncDispose]: once(() => files.release()),
    };
  }
  const source = files.source(member);
  const root = await readList(source, member.rootAt);
  const disks = await readMetadata(source, description.indexAt, description.disks, description.delta);
  const stop = new AbortController();
  const warnings = warningsOf(description);
  const access = await gainAccess(member, keys);
  const lineage = lineageOf(member, set);
  const identity = identityOf(root, disks);
  const opening = { options, files, member, source, lineage, access, disks, identity, signal: stop.signal, warnings };
  const point = await pointOf(opening);
  return {
    ...withoutClose(name, [point], encrypted),
    warnings,
    verify: run => {
      const locked = access.problem !== null;
      return verifyFile({ source, member, root, disks, origin: originOf(opening), parts: lineage.parts, locked }, run);
    },
    [Symbol.asyncDispose]: once(async () => {
      stop.abort();
      await files.release();
    }),
  };
}

const EXTENSIONS = ['.mrimgx', '.mrbakx', '.mrimg', '.mrbak'] as const;

/** A file that is named like an image and does not end like one is cut off or too old: saying so is better than silence. */
function probe(head: Uint8Array, tail: Uint8Array, name: string): Confidence {
  const lower = name.toLowerCase();
  // Kept beside a backup that lies elsewhere: all the metadata, and none of the data.
  if (lower.endsWith('.metadata')) return 'no';
  if (endsAsImage(tail)) return 'certain';
  return head.length > 0 && EXTENSIONS.some(extension => lower.endsWith(extension)) ? 'maybe' : 'no';
}

export function macriumAdapter(options: MacriumOptions): Adapter {
  return {
    name: 'macrium',
    title: 'Macrium Reflect X',
    extensions: EXTENSIONS,
    supports: { differencing: true, encryption: true, compression: true, write: false },
    probe,
    async open(name, store: Store, keys) {
      const files = filesOf(store);
      files.retain();
      try {
        return await openImage(name, files, keys, options);
      } catch (error) {
        await files.release();
        throw error;
      }
    },
  };
}

/** Reads the images of Macrium Reflect X as bootable disks. */
export const macrium: Adapter = macriumAdapter({ completeTables: true });

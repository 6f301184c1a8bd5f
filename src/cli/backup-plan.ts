/** What a backup is going to be: full or incremental, on which parent, with which key. Decided before anything is written. */
import fs from 'node:fs';
import type {
  Adapter,
  Disk,
  Image,
  Keyring,
  LayerCipher,
  LayerSpec,
  LayerWriter,
  WritableStore,
} from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { timeName } from '../chain/names.ts';
import type { BackupSet, Repository, RestorePoint } from '../chain/point.ts';
import { adapters } from '../registry.ts';
import { localStore } from '../stores/local.ts';
import type { BackupArgs } from './backup.ts';
import { openRepo } from './open.ts';
import { newSecret, type SecretRing } from './secrets.ts';
import type { Source } from './source.ts';
import type { Context } from './verb.ts';

const DEFAULT_BLOCK = 65_536;
/** More backups of one set than this within one second are a mistake. */
const NAMES_PER_SECOND = 100;

export interface Plan extends AsyncDisposable {
  readonly adapter: Adapter;
  readonly spec: LayerSpec;
  /** The parent's disks read through its chain; null where there is none. */
  readonly parentDisks: readonly (Disk | null)[];
}

export interface PlanInput {
  readonly args: BackupArgs;
  readonly blockSize: number | null;
  readonly time: Date;
  readonly source: Source;
  readonly keys: SecretRing;
  readonly context: Context;
}

function layerAdapter(): Adapter {
  const adapter = adapters.find(a => a.create !== undefined);
  if (adapter === undefined) throw new ImageError('unsupported', 'no format can be written');
  return adapter;
}

/** Throws 'usage', and 'locked' or 'wrong-key' for an encrypted set without its key: never a plain backup in its place. */
export async function planBackup(input: PlanInput): Promise<Plan> {
  const { args, keys, context } = input;
  const adapter = layerAdapter();
  await using opening = new AsyncDisposableStack();
  const stat = fs.statSync(args.repo, { throwIfNoEntry: false });
  if (stat !== undefined && !stat.isDirectory()) {
    throw new ImageError('usage', 'backups are written to a folder', { file: args.repo });
  }
  let set: BackupSet | undefined;
  let parent: RestorePoint | null = null;
  if (stat !== undefined) {
    const { repository } = opening.use(await openRepo(args.repo, keys, context));
    set = setOf(repository, args.set, adapter);
    parent = set === undefined ? null : parentPoint(set, input);
  }
  if (parent === null && (args.type === 'incremental' || args.type === 'differential')) {
    const what = args.type === 'differential' ? 'full restore point' : 'restore point';
    const message = `set ${args.set} has no readable ${what} to build on`;
    throw new ImageError('usage', message, { field: '--type' }, { hint: '--type full' });
  }
  const unlocked = set?.encrypted === true ? await unlock(args.repo, set, parent, adapter, keys) : null;
  const cipher = cipherFor(args, unlocked?.cipher);
  const secret = unlocked?.secret ?? (args.encrypt ? await newSecret(keys, args) : null);
  const parentImage = parent === null ? null : opening.use(await openParent(args.repo, parent, adapter, secret));
  const parentDisks = await openParentDisks(parent, input.source, opening);
  const spec: LayerSpec = {
    set: args.set,
    time: input.time,
    type: parent === null ? 'full' : args.type === 'differential' ? 'differential' : 'incremental',
    disks: input.source.disks.map(({ name, disk: { size, sectorSize } }) => ({ name, size, sectorSize })),
    blockSize: blockSizeFor(input, parentImage),
    parent: parentImage === null ? null : { image: parentImage, point: pointIn(parentImage, parent!) },
    secret,
    compression: args.compression,
    ...(secret === null || cipher === undefined ? {} : { cipher }),
  };
  const opened = opening.move();
  return { adapter, spec, parentDisks, [Symbol.asyncDispose]: () => opened.disposeAsync() };
}

function setOf(repository: Repository, name: string, adapter: Adapter): BackupSet | undefined {
  const set = repository.sets.find(s => s.name === name);
  if (set === undefined || set.adapter === adapter.name) return set;
  const message = `${name} is a set of ${set.adapter} images: backups go to a set of their own`;
  throw new ImageError('usage', message, { field: '--set' });
}

/** The newest point that can be read, and for a differential the newest full; null for a full. */
function parentPoint(set: BackupSet, { args, time, source, context }: PlanInput): RestorePoint | null {
  const newest = set.points.at(-1);
  if (newest?.time !== undefined && newest.time !== null && time.getTime() <= newest.time.getTime()) {
    const message = `${time.toISOString()} is not after the set's newest restore point, ${newest.name}`;
    throw new ImageError('usage', message, { field: '--time' }, { hint: 'set the clock right, or wait a moment' });
  }
  const locked = set.points.findLast(point => point.state === 'locked');
  const differential = args.type === 'differential';
  const fits = (point: RestorePoint): boolean => point.state === 'ok' && (!differential || point.type === 'full');
  const parent = set.points.findLast(fits) ?? null;
  if (parent === null && locked !== undefined) throw keyNeeded(set, locked);
  if (args.encrypt && !set.encrypted) {
    const message = `set ${set.name} is not encrypted, and a set is wholly encrypted or not at all`;
    throw new ImageError('usage', message, { field: '--encrypt' }, { hint: 'another --set' });
  }
  if (args.type === 'full' || parent === null) return null;
  const names = (disks: readonly { name: string }[]): string => disks.map(disk => disk.name).join(' ');
  if (names(parent.disks) !== names(source.disks)) {
    const message = `the set has ${names(parent.disks)}, the source ${names(source.disks)}`;
    if (args.type !== 'auto') throw new ImageError('usage', message, { field: '--type' }, { hint: '--type full' });
    context.note(`bootmount: ${message}: making a full backup`);
    return null;
  }
  if (parent !== newest && !differential)
    context.note(`bootmount: ${newest!.name} cannot be read: building on ${parent.name}`);
  return parent;
}

function keyNeeded(set: BackupSet, point: RestorePoint): ImageError {
  const { fault } = point.problem!;
  const why = fault === 'wrong-key' ? 'the key does not unlock it' : 'its key is needed for the next backup';
  const hint = '--key-file FILE with the key that its first backup was made with';
  return new ImageError(fault, `set ${set.name} is encrypted: ${why}`, { file: point.file }, { hint });
}

const ringOf = (secret: Uint8Array | null): Keyring => ({
  secrets: async () => (secret === null ? [] : [secret]),
});

/** A set has one cipher, as it has one key. `theirs`: of the set as it is. */
function cipherFor({ set, cipher, encrypt }: BackupArgs, theirs: LayerCipher | undefined): LayerCipher | undefined {
  if (cipher === undefined || cipher === theirs) return theirs;
  const field = '--cipher';
  if (theirs !== undefined) {
    const message = `set ${set} is encrypted with ${theirs}, and a set has one cipher`;
    throw new ImageError('usage', message, { field }, { hint: 'another --set' });
  }
  if (encrypt) return cipher;
  throw new ImageError('usage', 'a cipher is of use where something is encrypted', { field }, { hint: '--encrypt' });
}

/** The one secret, of those given, that unlocks the set; a full in it must not be locked with another one. */
async function unlock(
  repo: string,
  set: BackupSet,
  parent: RestorePoint | null,
  adapter: Adapter,
  keys: Keyring,
): Promise<{ readonly secret: Uint8Array; readonly cipher: LayerCipher | undefined }> {
  const point = parent ?? set.points.findLast(p => p.state === 'ok');
  if (point === undefined) {
    const message = `no restore point of the encrypted set ${set.name} can be read`;
    throw new ImageError('broken-chain', message, {}, { hint: 'another --set' });
  }
  for (const secret of await keys.secrets()) {
    await using image = await adapter.open(point.file, localStore(repo), ringOf(secret));
    if (pointIn(image, point).problem === null) return { secret, cipher: image.cipher };
  }
  throw keyNeeded(set, set.points.findLast(p => p.state === 'locked') ?? point);
}

const openParent = (repo: string, point: RestorePoint, adapter: Adapter, secret: Uint8Array | null): Promise<Image> =>
  adapter.open(point.file, localStore(repo), ringOf(secret));

/** The same point in an image that was opened anew. */
const pointIn = (image: Image, point: RestorePoint): Image['points'][number] =>
  image.points.find(p => p.time?.getTime() === point.time?.getTime()) ?? image.points.at(-1)!;

async function openParentDisks(
  parent: RestorePoint | null,
  source: Source,
  opening: AsyncDisposableStack,
): Promise<readonly (Disk | null)[]> {
  const disks: (Disk | null)[] = [];
  for (const number of source.disks.keys()) {
    disks.push(parent === null ? null : opening.use(await parent.openDisk(number)));
  }
  return disks;
}

/** Every layer of a chain has the block size of its first. */
function blockSizeFor({ blockSize }: PlanInput, parent: Image | null): number {
  const theirs = parent?.points.at(-1)?.disks[0]?.layer?.blockSize;
  if (theirs === undefined) return blockSize ?? DEFAULT_BLOCK;
  if (blockSize === null || blockSize === theirs) return theirs;
  const message = `the set's blocks are ${theirs} bytes long, and an incremental follows its parent`;
  throw new ImageError('usage', message, { field: '--block-size' }, { hint: '--type full' });
}

/** The layer under the first free name for its second. */
export async function createLayer(store: WritableStore, plan: Plan): Promise<{ writer: LayerWriter; file: string }> {
  const { adapter, spec } = plan;
  const base = `${spec.set}/${timeName(spec.time)}`;
  const extension = adapter.extensions[0]!.replace(/^\./, '');
  for (let n = 1; ; n++) {
    const file = `${base}${n === 1 ? '' : `-${n}`}.${extension}`;
    if (await exists(store, file)) continue;
    try {
      return { writer: await adapter.create!(file, store, spec), file };
    } catch (error) {
      if (!(error instanceof ImageError) || error.fault !== 'exists' || n >= NAMES_PER_SECOND) throw error;
    }
  }
}

async function exists(store: WritableStore, name: string): Promise<boolean> {
  try {
    await using _ = await store.open(name);
    return true;
  } catch (error) {
    if (error instanceof ImageError && error.fault === 'not-found') return false;
    throw error;
  }
}

/** Opening a `.bml` file as an `Image`. */
import type {
  Bytes,
  Image,
  ImageDisk,
  ImagePoint,
  Keyring,
  Layer,
  LayerId,
  PointType,
  Store,
} from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { once } from '../../src/base/lazy.ts';
import { type CommitDisk, hashOf, type PlacedCommit, readCommit, TLV_SET, textTlv } from './commit.ts';
import { type SetKeys, setKeys } from './crypto.ts';
import { soundKeyArea, type Unlocked, unlockWith } from './keys.ts';
import type { Objects } from './objects.ts';
import { type SetFile, type Shelf, shelfOf } from './shelf.ts';
import { corrupt, hex, KEY_AREA_SIZE, KEY_AREAS, sameBytes } from './structs.ts';
import type { CommitPlace, Head, Tail } from './superblock.ts';
import type { Line } from './table.ts';
import { checkTable, objectsOf, readTable } from './table-read.ts';
import { Tree } from './tree.ts';
import { verifyFile } from './verify.ts';

/** One restore point of the file, as far as it could be read. */
export interface OpenPoint {
  readonly commit: PlacedCommit;
  /** Empty while there is a problem. */
  readonly trees: readonly Tree[];
  /** Read from the layer table when they are first asked for; null while there is a problem. */
  readonly objects: (() => Promise<Objects>) | null;
  readonly problem: ImageError | null;
  /** The newest older point that was not consolidated into this one; null: there is none. */
  readonly builtOn: LayerId | null;
  /** As the commit says, but 'full' where every older layer was consolidated into the file. */
  readonly type: PointType;
}

/** What `create` and `verify` need of an opened image, beyond the contract. */
export interface Opened {
  readonly store: Store;
  readonly shelf: Shelf;
  readonly file: SetFile;
  readonly head: Head;
  readonly tail: Tail;
  readonly keyArea: Uint8Array | null;
  readonly unlocked: Unlocked | null;
  readonly keys: SetKeys | null;
  readonly points: ReadonlyMap<LayerId, OpenPoint>;
}

const opened = new WeakMap<Image, Opened>();

/** The inside of an image that this adapter opened; undefined for any other. */
export const insideOf = (image: Image): Opened | undefined => opened.get(image);

interface Access {
  readonly keyArea: Uint8Array | null;
  readonly unlocked: Unlocked | null;
  readonly problem: ImageError | null;
}

async function readKeyArea(file: SetFile): Promise<{ area: Uint8Array | null; at: number }> {
  const copies: Uint8Array[] = [];
  for (const at of KEY_AREAS) {
    const copy = new Uint8Array(KEY_AREA_SIZE);
    await file.read(copy, at);
    copies.push(copy);
  }
  const area = soundKeyArea(copies);
  return { area, at: KEY_AREAS[area === copies[1] ? 1 : 0] };
}

/** The master key, or why the file stays closed. */
async function gainAccess(file: SetFile, head: Head, keys: Keyring): Promise<Access> {
  if (head.cipher === 'none') return { keyArea: null, unlocked: null, problem: null };
  const { area, at } = await readKeyArea(file);
  const where = { file: file.name, at };
  if (area === null) {
    const problem = new ImageError('corrupt', 'both copies of the key slots fail their checksum', where);
    return { keyArea: null, unlocked: null, problem };
  }
  try {
    const unlocked = await unlockWith(keys, area, head.setId, file.name, at);
    if (unlocked === 'locked') {
      const problem = new ImageError('locked', 'the backup is encrypted and no key was given', where);
      return { keyArea: area, unlocked: null, problem };
    }
    const problem = unlocked === null ? new ImageError('wrong-key', 'no given key opens the backup', where) : null;
    return { keyArea: area, unlocked, problem };
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    return { keyArea: area, unlocked: null, problem: error };
  }
}

interface Setting {
  readonly shelf: Shelf;
  readonly file: SetFile;
  readonly head: Head;
  readonly tail: Tail;
  readonly keys: SetKeys | null;
  /** Why the file stays closed. */
  readonly locked: ImageError | null;
}

const idOf = (layer: Uint8Array): LayerId | null => (layer.every(byte => byte === 0) ? null : (hex(layer) as LayerId));

/** What a point was made on. Layers that were consolidated into its file are no points any more. */
function descentOf({ file, tail }: Setting, commit: PlacedCommit, lines: readonly Line[]) {
  const points = new Set(tail.commits.map(one => hex(one.layer)));
  const older = lines.slice(0, commit.ownLine).findLast(line => points.has(line.id) || !file.layers.has(line.id));
  const builtOn = older === undefined ? null : (older.id as LayerId);
  const whole = lines.every(line => line.live === 0 || file.layers.has(line.id));
  return { builtOn, type: builtOn === null && whole ? ('full' as const) : commit.type };
}

async function openPoint(on: Setting, commit: PlacedCommit): Promise<OpenPoint> {
  const { shelf, file, head, keys, locked } = on;
  const plain = { builtOn: idOf(commit.parent), type: commit.type };
  const closed = (problem: ImageError, descent: typeof plain = plain): OpenPoint => ({
    commit,
    trees: [],
    objects: null,
    problem,
    ...descent,
  });
  // Metadata are not encrypted: where the table is needed to know the descent, it is read without the key.
  if (locked !== null && on.tail.held === 0) return closed(locked);
  if (locked === null && !sameBytes(hashOf(commit.content(), keys), commit.hash)) {
    return closed(corrupt('commit: fails its authentication', file.name, commit.at));
  }
  let descent = plain;
  try {
    if (on.tail.held > 0) descent = descentOf(on, commit, await readTable(file, commit));
    if (locked !== null) return closed(locked, descent);
    await checkTable(shelf, file, commit);
  } catch (error) {
    if (error instanceof ImageError) return closed(error, descent);
    throw error;
  }
  const files = shelf.layersBeside(file.name, file.setId);
  const objects = once(() => objectsOf({ shelf, file, files, commit, setId: head.setId, cipher: head.cipher, keys }));
  const line = commit.lines - 1;
  const trees = commit.disks.map(disk => new Tree({ ...disk, disk: disk.number, file, line }, objects));
  return { commit, trees, objects, problem: null, ...descent };
}

/** The tree behind each layer: layers of one set can be compared. */
const trees = new WeakMap<Layer, Tree>();

function layerOf(tree: Tree, id: LayerId, disk: CommitDisk): Layer {
  const { blockSize } = disk;
  const layer: Layer = {
    id,
    size: disk.size,
    blockSize: disk.blockSize,
    locate: (at, limit) => tree.locate(at, limit),
    load: at => tree.load(at),
    unpack: (unit, into) => tree.unpack(unit, into),
    async compare(other, at, limit) {
      const theirs = trees.get(other);
      if (theirs === undefined || theirs.spec.file.setId !== tree.spec.file.setId) return null;
      if (theirs.spec.blockSize !== blockSize || theirs.spec.height !== tree.spec.height) return null;
      const { same, end } = await tree.compare(theirs, Math.floor(at / blockSize));
      return { same, length: Math.min(limit, end * blockSize - at) };
    },
  };
  trees.set(layer, tree);
  return layer;
}

/**
 * A commit counts the blocks of its own layer. Where others were merged into the file, all that lies before the commit is the
 * point's, in parts as large as its disks.
 */
function storedOf(disk: CommitDisk, { at, disks }: PlacedCommit, tail: Tail): Bytes {
  if (tail.held < 2 || tail.commits.length > 1) return disk.stored;
  return Math.round((at * disk.size) / disks.reduce((sum, { size }) => sum + size, 0));
}

/** Trees are complete by themselves, so no point has a parent that the core would have to find. */
function imagePoint(point: OpenPoint, id: LayerId, tail: Tail): ImagePoint {
  const { commit } = point;
  const disks = commit.disks.map(
    (disk, i): ImageDisk => ({
      name: disk.name,
      size: disk.size,
      sectorSize: disk.sectorSize,
      stored: storedOf(disk, commit, tail),
      layer: point.trees[i] === undefined ? null : layerOf(point.trees[i], id, disk),
    }),
  );
  return {
    id,
    parent: null,
    set: textTlv(commit, TLV_SET),
    time: commit.time <= 8.64e15 ? new Date(commit.time) : null,
    type: point.type,
    disks,
    identity: hex(commit.hash),
    sealed: true,
    builtOn: point.builtOn,
    problem: point.problem,
  };
}

/** Newest last: those that the trailer lists, which are the newest ones of the file. */
async function readCommits(shelf: Shelf, name: string, tail: Tail): Promise<PlacedCommit[]> {
  const places: readonly CommitPlace[] = tail.commits;
  if (places.length === 0) throw corrupt('the file holds no commit', name, 0);
  return shelf.use(name, async source => {
    const commits: PlacedCommit[] = [];
    for (const place of places) commits.push(await readCommit(source, place));
    return commits;
  });
}

export async function openBml(name: string, store: Store, keyring: Keyring): Promise<Image> {
  const shelf = shelfOf(store);
  shelf.retain();
  try {
    await shelf.forget(name);
    const { file, head, tail } = await shelf.identify(name);
    const commits = await readCommits(shelf, name, tail);
    const { keyArea, unlocked, problem } = await gainAccess(file, head, keyring);
    const keys = unlocked === null ? null : setKeys(unlocked.master, head.setId);
    const points = new Map<LayerId, OpenPoint>();
    for (const commit of commits) {
      const id = hex(commit.layer) as LayerId;
      points.set(id, await openPoint({ shelf, file, head, tail, keys, locked: problem }, commit));
    }
    const inside: Opened = { store, shelf, file, head, tail, keyArea, unlocked, keys, points };
    return imageOf(inside);
  } catch (error) {
    await shelf.release();
    throw error;
  }
}

function warningsOf({ head, tail }: Opened): string[] {
  const warnings: string[] = [];
  if (head.fromCopy) warnings.push('the first superblock is damaged; its copy was used');
  if (tail.warning !== null) warnings.push(tail.warning);
  if (tail.total > tail.commits.length) {
    warnings.push(`only the newest ${tail.commits.length} of ${tail.total} restore points are listed`);
  }
  if (head.readOnly !== 0n) warnings.push(`features 0x${head.readOnly.toString(16)} are unknown: reading only`);
  return warnings;
}

function imageOf(inside: Opened): Image {
  let open = true;
  const image: Image = {
    adapter: 'bml',
    name: inside.file.name,
    encrypted: inside.head.cipher !== 'none',
    points: [...inside.points].map(([id, point]) => imagePoint(point, id, inside.tail)),
    ...(inside.head.cipher === 'none' ? {} : { cipher: inside.head.cipher }),
    warnings: warningsOf(inside),
    ...(inside.head.cipher === 'aes-256-xts' ? { notes: ['sectors of aes-256-xts: restore --luks'] } : {}),
    verify: run => verifyFile(inside, run),
    async [Symbol.asyncDispose]() {
      if (!open) return;
      open = false;
      for (const point of inside.points.values()) for (const tree of point.trees) tree.drop();
      await inside.shelf.release();
    },
  };
  opened.set(image, inside);
  return image;
}

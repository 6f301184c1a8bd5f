/** A layer under construction: how it begins, and how it is committed (section 12). */
import { createSecretKey, randomBytes } from 'node:crypto';
import type { ByteFile, LayerSpec, WritableStore } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { isPowerOfTwo, roundUp } from '../../src/base/range.ts';
import { buildCommit, type Commit, type CommitDisk, NAME_LIMIT, TLV_SET, TLV_WRITER } from './commit.ts';
import { setKeys } from './crypto.ts';
import { buildKeyArea, type Derivation, proofOf, unlock, usualDerivations } from './keys.ts';
import { fetchNode, type Objects } from './objects.ts';
import { type OpenTree, openTree, releaseTree, type TreeSink } from './open-tree.ts';
import { type Claim, claim } from './owner.ts';
import { Session } from './pipeline.ts';
import { insideOf, type Opened, type OpenPoint } from './read.ts';
import { SECTOR } from './sectors.ts';
import type { SetFile } from './shelf.ts';
import {
  CIPHERS,
  type Cipher,
  FIRST_RECORD,
  hex,
  KEY_AREA_SIZE,
  KEY_AREAS,
  PAGE,
  SLOTS,
  SUPERBLOCKS,
  sameBytes,
  sessionRecord,
} from './structs.ts';
import { buildSlot, buildSuperblock, buildTrailer, MAX_BLOCK_LOG2, MIN_BLOCK_LOG2 } from './superblock.ts';
import { buildTable, type Line, tableHash } from './table.ts';
import { type Found, takeUp } from './take-up.ts';
import type { Tree } from './tree.ts';
import type { Kept } from './unfinished.ts';

const MAX_DISKS = 1024;
const WRITER = 'bootmount';

export interface WriteOptions {
  /** How a new set's secret becomes a key; a child keeps its parent's slots. */
  readonly derivations?: readonly Derivation[];
  /** Nodes of one disk that are open at once. */
  readonly openNodes?: number;
  /** PBKDF2 iterations of a new set's LUKS key; absent: as many as take a second. */
  readonly luksIterations?: number;
}

export const usage = (message: string, file: string): ImageError => new ImageError('usage', message, { file });

function checkSpec(name: string, spec: LayerSpec): void {
  const log2 = Math.log2(spec.blockSize);
  if (!isPowerOfTwo(spec.blockSize) || log2 < MIN_BLOCK_LOG2 || log2 > MAX_BLOCK_LOG2) {
    throw usage(`block size ${spec.blockSize} is no power of two from 4 KiB to 4 MiB`, name);
  }
  if (spec.disks.length > MAX_DISKS) throw usage(`${spec.disks.length} disks; at most ${MAX_DISKS} fit`, name);
  if (!(spec.time.getTime() >= 0)) throw usage('the time of the restore point is not valid', name);
  const names = new Set<string>();
  for (const disk of spec.disks) {
    if (!Number.isSafeInteger(disk.size) || disk.size < 0) throw usage(`disk ${disk.name}: size ${disk.size}`, name);
    const length = Buffer.byteLength(disk.name);
    if (length === 0 || length > NAME_LIMIT || disk.name.includes('\0') || names.has(disk.name)) {
      throw usage(
        `disk name ${JSON.stringify(disk.name)} is empty, longer than ${NAME_LIMIT} bytes or used twice`,
        name,
      );
    }
    names.add(disk.name);
  }
}

interface Parent {
  readonly inside: Opened;
  readonly point: OpenPoint;
  readonly objects: Objects;
}

async function parentOf(name: string, spec: LayerSpec): Promise<Parent | null> {
  if (spec.parent === null) return null;
  const inside = insideOf(spec.parent.image);
  const point = inside?.points.get(spec.parent.point.id);
  if (inside === undefined || point === undefined) {
    throw new ImageError('unsupported', 'the parent of a .bml layer must be one itself', { file: name });
  }
  if (point.problem !== null) throw point.problem;
  const odd = point.commit.disks.find(disk => disk.blockSize !== spec.blockSize);
  if (odd !== undefined) throw usage(`the parent has blocks of ${odd.blockSize} bytes, not ${spec.blockSize}`, name);
  return { inside, point, objects: await point.objects!() };
}

/** The parent's cipher; of a new set, what is wanted. */
function cipherOf(name: string, spec: LayerSpec, parent: Parent | null): Cipher {
  const wanted = spec.secret === null ? 'none' : (spec.cipher ?? 'aes-256-gcm');
  const cipher = parent?.inside.head.cipher ?? wanted;
  if (spec.cipher !== undefined && cipher !== spec.cipher) {
    throw usage(`the cipher is ${cipher}, not ${spec.cipher}, which needs a new full with a secret`, name);
  }
  const odd = cipher === 'aes-256-xts' ? spec.disks.find(disk => disk.size % SECTOR !== 0) : undefined;
  if (odd === undefined) return cipher;
  throw usage(`disk ${odd.name}: ${odd.size} bytes are no whole sectors of ${SECTOR}, as aes-256-xts needs them`, name);
}

/** What the new layer is made on. */
interface Origin {
  readonly parent: Parent | null;
  readonly found: Found | null;
  readonly cipher: Cipher;
}

/** The key area of the new file and the keys that it opens. */
async function keysFor(name: string, spec: LayerSpec, setId: Uint8Array, from: Origin, options: WriteOptions) {
  const { parent, found } = from;
  if (parent === null) {
    if (spec.secret === null) return { keyArea: null, keys: null };
    if (found !== null) return { keyArea: found.keyArea, keys: setKeys(found.master!, setId) };
    const master = randomBytes(32);
    const { derivations = usualDerivations(), luksIterations } = options;
    const luks = luksIterations === undefined ? {} : { iterations: luksIterations };
    const isXts = from.cipher === 'aes-256-xts';
    const keyArea = await buildKeyArea(derivations, spec.secret, master, setId, isXts ? luks : null);
    const key = createSecretKey(master);
    master.fill(0);
    return { keyArea, keys: setKeys(key, setId) };
  }
  const { keyArea, unlocked, keys } = parent.inside;
  if (unlocked === null || keyArea === null) {
    if (spec.secret === null) return { keyArea: null, keys: null };
    throw usage('the parent is not encrypted; an encrypted layer needs a new full', name);
  }
  if (spec.secret === null) {
    throw new ImageError('locked', 'the parent is encrypted: its secret is needed', { file: name });
  }
  const same = proofOf(unlocked.master, spec.secret).equals(unlocked.proof);
  if (!same && (await unlock(keyArea, [spec.secret], setId, name, KEY_AREAS[0])) === null) {
    throw new ImageError('wrong-key', 'the secret does not open the parent', { file: name });
  }
  return { keyArea, keys };
}

const baseName = (name: string): string => name.slice(name.lastIndexOf('/') + 1);

async function writeStart(file: ByteFile, head: Parameters<typeof buildSuperblock>[0], keyArea: Uint8Array | null) {
  // Everything in front of the records is written, so that nothing is left to what the medium held before.
  await file.write(new Uint8Array(FIRST_RECORD), 0);
  await writeFixed(file, head, keyArea);
}

async function writeFixed(file: ByteFile, head: Parameters<typeof buildSuperblock>[0], keyArea: Uint8Array | null) {
  for (const at of SUPERBLOCKS) await file.write(buildSuperblock(head), at);
  if (keyArea === null) return;
  for (const at of KEY_AREAS) await file.write(keyArea.subarray(0, KEY_AREA_SIZE), at);
}

export interface DiskState {
  readonly id: Uint8Array;
  readonly number: number;
  readonly spec: LayerSpec['disks'][number];
  readonly blocks: number;
  readonly tree: OpenTree;
  readonly parent: Tree | null;
}

/** All that a layer under construction knows. */
export interface OpenLayer {
  readonly name: string;
  readonly work: Claim;
  readonly store: WritableStore;
  readonly file: ByteFile;
  readonly spec: LayerSpec;
  readonly setId: Uint8Array;
  readonly fileId: Uint8Array;
  readonly layer: Uint8Array;
  /** One for each run of a writer: the last one is this one's. */
  readonly ownLines: readonly Line[];
  /** What earlier runs stored; null: this is the first one. */
  readonly kept: Kept | null;
  readonly parent: Parent | null;
  readonly keys: ReturnType<typeof setKeys> | null;
  readonly session: Session;
  readonly sink: TreeSink;
  readonly disks: readonly DiskState[];
  readonly nextDisk: number;
  readonly started: number;
}

/** The file of the layer while it is written, as a place that nodes are read back from. */
function ownFile(file: ByteFile, layer: Uint8Array, setId: Uint8Array): SetFile {
  return {
    name: file.name,
    get size() {
      return file.size;
    },
    setId: hex(setId),
    layers: new Set([hex(layer)]),
    index: { at: 0, entries: 0 },
    read: async (into, at) => file.read(into, at),
  };
}

function sinkFor(
  parent: Parent | null,
  own: SetFile,
  ownLines: readonly Line[],
  session: Session,
  setId: Uint8Array,
): TreeSink {
  const older = parent?.objects;
  const lines = [...(older?.lines ?? []), ...ownLines];
  const objects: Objects = {
    setId,
    cipher: session.spec.cipher,
    keys: null,
    lines,
    holders: [...(older?.holders ?? []), ...ownLines.map(() => [own])],
  };
  return {
    line: older?.lines.length ?? 0,
    live: lines.map(line => line.live),
    readNode: (entry, place) => fetchNode(objects, entry, place, parent?.inside.file ?? null, session.spec.blockSize),
    writeNode: (bytes, { disk, level, position }) => session.writeNode(disk, level, position, bytes),
    release: entry => session.release(entry),
  };
}

async function openDisks(spec: LayerSpec, parent: Parent | null, sink: TreeSink, limit?: number) {
  const old = parent?.point.commit.disks ?? [];
  let nextDisk = parent?.point.commit.nextDisk ?? 0;
  const disks: DiskState[] = [];
  for (const one of spec.disks) {
    const i = old.findIndex(disk => disk.name === one.name);
    const known = old[i];
    const tree = parent?.point.trees[i] ?? null;
    const number = known?.number ?? nextDisk++;
    const blocks = Math.ceil(one.size / spec.blockSize);
    const opened = await openTree(number, blocks, tree, sink, limit);
    disks.push({ id: known?.id ?? randomBytes(16), number, spec: one, blocks, tree: opened, parent: tree });
  }
  for (const [i, disk] of old.entries()) {
    if (spec.disks.some(one => one.name === disk.name)) continue;
    const tree = parent?.point.trees[i];
    if (tree !== undefined) await releaseTree(tree, sink);
  }
  return { disks, nextDisk };
}

/** Refuses when there is such a file; a rename would replace it. */
export async function refuseExisting(store: WritableStore, name: string): Promise<void> {
  try {
    await using _ = await store.open(name);
  } catch (error) {
    if (error instanceof ImageError && error.fault === 'not-found') return;
    throw error;
  }
  throw new ImageError('exists', 'the file exists already', { file: name });
}

export async function begin(
  name: string,
  store: WritableStore,
  spec: LayerSpec,
  options: WriteOptions,
): Promise<OpenLayer> {
  checkSpec(name, spec);
  const parent = await parentOf(name, spec);
  const cipher = cipherOf(name, spec, parent);
  await refuseExisting(store, name);
  const work = await claim(store, name, 'writes');
  try {
    await checkParentStays(parent);
    const parentId = parent?.inside.head.setId ?? null;
    const found = await takeUp(work, store, spec, { parentId, cipher });
    const setId = parentId ?? found?.head.setId ?? randomBytes(16);
    const { keyArea, keys } = await keysFor(name, spec, setId, { parent, found, cipher }, options);
    const layer = found?.layer ?? randomBytes(16);
    const salt = keys === null ? new Uint8Array(16) : randomBytes(16);
    const salts = [...(found?.salts ?? []), salt];
    const fileId = found?.head.fileId ?? randomBytes(16);
    const started = Date.now();
    const { file } = work;
    if (found === null) {
      const blockLog2 = Math.log2(spec.blockSize);
      await writeStart(file, { setId, fileId, cipher, blockLog2, created: started }, keyArea);
    } else {
      await file.truncate(found.end);
      // Of two copies one may have been lost with the power.
      await writeFixed(file, found.head, keyArea);
    }
    const first = parent?.objects.lines.length ?? 0;
    const number = salts.length - 1;
    const { blockSize, compression: level } = spec;
    const key = keys === null ? null : cipher === 'aes-256-xts' ? keys.volume() : keys.session(layer, salt);
    const about = { setId, layer, session: number, line: first + number, cipher, key, blockSize, level };
    const session = new Session(file, about, found);
    const record = { layer, setId, salt, session: number, reserved: 0, generation: 0, created: started };
    await session.writePlain('session', number, sessionRecord.build({ ...record, cipher: CIPHERS[cipher] }));
    const ownLines = salts.map((one, i) => ownLine(spec, name, layer, one, i));
    const sink = sinkFor(parent, ownFile(file, layer, setId), ownLines, session, setId);
    const { disks, nextDisk } = await openDisks(spec, parent, sink, options.openNodes);
    const kept = found === null ? null : { unfinished: found, file, blockSize, keys, line: first };
    const fixed = { name, work, store, file, spec, setId, fileId, layer, parent, keys, session, sink, kept };
    return { ...fixed, ownLines, disks, nextDisk, started };
  } catch (error) {
    await work.end(true);
    throw error;
  }
}

const ownLine = (spec: LayerSpec, name: string, layer: Uint8Array, salt: Uint8Array, session: number): Line => ({
  layer,
  id: hex(layer),
  salt,
  time: spec.time.getTime(),
  session,
  live: 0,
  file: baseName(name),
});

/** From the claim on nobody removes it; until then a consolidation may have done so. */
async function checkParentStays(parent: Parent | null): Promise<void> {
  if (parent === null) return;
  const { shelf, file, head } = parent.inside;
  await shelf.forget(file.name);
  let now: Uint8Array | null = null;
  try {
    now = (await shelf.identify(file.name)).head.fileId;
  } catch (error) {
    if (!(error instanceof ImageError) || error.fault !== 'not-found') throw error;
  }
  if (now !== null && sameBytes(now, head.fileId)) return;
  const message = 'the parent was consolidated or removed since it was opened';
  throw new ImageError('busy', message, { file: file.name }, { hint: 'start again' });
}

/** Lines of the new table: the parent's, with their counts as they are now, and the layer's own. */
function tableOf({ parent, sink, ownLines }: OpenLayer): { body: Uint8Array; names: number; lines: number } {
  const lines = [...(parent?.objects.lines ?? []), ...ownLines].map(
    (line, i): Line => ({ ...line, live: sink.live[i]! }),
  );
  return { ...buildTable(lines), lines: lines.length };
}

const diskOf = (disk: DiskState, blockSize: number): CommitDisk => ({
  id: disk.id,
  name: disk.spec.name,
  number: disk.number,
  size: disk.spec.size,
  sectorSize: disk.spec.sectorSize,
  blockSize,
  height: disk.tree.height,
  stored: disk.tree.stored,
  root: disk.tree.root,
});

/** Records first, then what makes them count: a crash in between leaves a file that nobody looks at. */
export async function commitLayer(open: OpenLayer): Promise<void> {
  const { session, file, spec, parent, setId, fileId, layer } = open;
  for (const disk of open.disks) await disk.tree.flush();
  const { body, names, lines } = tableOf(open);
  const tableAt = await session.writePlain('metadata', 1, body);
  await file.sync();
  const at = roundUp(session.end, PAGE);
  const text = (type: number, value: string) => ({ type, critical: false, value: Buffer.from(value) });
  const commit: Commit = {
    sequence: (parent?.point.commit.sequence ?? 0) + 1,
    layer,
    parent: parent?.point.commit.layer ?? new Uint8Array(16),
    parentHash: parent?.point.commit.hash ?? new Uint8Array(32),
    type: spec.type,
    consistency: 'unknown',
    time: spec.time.getTime(),
    started: open.started,
    finished: Date.now(),
    lines,
    names,
    ownLine: open.sink.line,
    nextDisk: open.nextDisk,
    tableHash: tableHash(body),
    records: session.records,
    tableAt,
    tableStored: body.length,
    previousAt: 0,
    firstAt: FIRST_RECORD,
    disks: open.disks.map(disk => diskOf(disk, spec.blockSize)),
    tlvs: [text(TLV_SET, spec.set), text(TLV_WRITER, WRITER)],
  };
  const { bytes } = buildCommit(commit, open.keys);
  const place = { at, length: bytes.length, layer };
  const tail = { sequence: 1, commits: [place], fileSize: at + bytes.length + PAGE, setId, fileId, sum: session.sum };
  await file.write(bytes, at);
  await file.write(buildTrailer(tail), tail.fileSize - PAGE);
  await file.write(buildSlot(tail), SLOTS[0]);
  await file.sync();
}

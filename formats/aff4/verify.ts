/** Checksums of all members, digests of maps and chunks, and the digests of streams and of the disk. */
import { createHash, type Hash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import type { Bytes, Layer, Problem, Verified, VerifyRun } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import {
  checkBlockMaps,
  checkMapDigests,
  checkStreamDigests,
  type Mismatch,
  partsOf,
  storedDigests,
} from './digests.ts';
import type { ImagedDisk } from './disk.ts';
import { type Bevy, BLOCK_HASHES, type ImageStream } from './stream.ts';
import { STORED } from './structs.ts';
import { unreadable } from './targets.ts';
import { factOf, type Volume } from './volume.ts';
import type { Volumes } from './volumes.ts';
import { type Member, membersOf, readMember } from './zip.ts';

const LONGEST_DEFLATED: Bytes = 16 * 2 ** 20;
const PART: Bytes = 2 ** 20;
const MOST_LOST = 1000;

interface Walk {
  readonly run: VerifyRun;
  readonly file: string;
  readonly total: Bytes;
  checked: number;
  bytes: Bytes;
  done: Bytes;
}

function reportError(walk: Walk, error: unknown, more: Partial<Problem> = {}): void {
  if (!(error instanceof ImageError)) throw error;
  const { file, at } = error.where;
  const where = { file: file ?? walk.file, offset: at ?? 0 };
  walk.run.found({ fault: error.fault, message: error.message, ...where, ...more });
}

function step(walk: Walk, bytes: Bytes): void {
  walk.run.signal.throwIfAborted();
  walk.done = Math.min(walk.total, walk.done + bytes);
  walk.bytes += bytes;
  walk.run.progress(walk.done, walk.total);
}

const wrongIn =
  (walk: Walk, volume: Volume) =>
  ({ what, member, stored, computed }: Mismatch): void => {
    const message = `the digest of ${what} is ${computed}, the image says ${stored}`;
    walk.run.found({ fault: 'corrupt', message, file: volume.file, offset: member.headerAt });
  };

async function guarded(walk: Walk, work: () => Promise<number>): Promise<void> {
  try {
    walk.checked += await work();
  } catch (error) {
    reportError(walk, error);
  }
}

async function checkMember(walk: Walk, volume: Volume, member: Member): Promise<number> {
  if (member.method !== STORED) {
    await readMember(volume.archive, member, LONGEST_DEFLATED);
    return 1;
  }
  let crc = 0;
  for await (const part of partsOf(volume, member)) {
    crc = crc32(part, crc);
    step(walk, part.length);
  }
  if (crc === member.crc) return 1;
  const message = `the checksum of "${member.name.slice(0, 100)}" does not hold`;
  throw new ImageError('corrupt', message, { file: volume.file, at: member.headerAt });
}

/** Checksums of the members; bevies whose chunks have digests are left to those where all chunks are read anyway. */
async function checkMembers(walk: Walk, volume: Volume, covered: ReadonlySet<number>): Promise<void> {
  for await (const member of membersOf(volume.archive)) {
    if (!covered.has(member.headerAt)) await guarded(walk, () => checkMember(walk, volume, member));
  }
}

const streamsOf = (disks: readonly ImagedDisk[]): readonly ImageStream[] => [
  ...new Set(
    disks.flatMap(({ targets }) => targets.flatMap(target => (target.kind === 'stream' ? target.stream : []))),
  ),
];

const beviesOf = ({ chunks, perBevy }: ImageStream): number => Math.ceil(chunks / perBevy);

/** Every chunk lies where one can lie. */
async function checkPlaces(walk: Walk, stream: ImageStream): Promise<void> {
  for (let number = 0; number < beviesOf(stream); number++) {
    step(walk, 0);
    await guarded(walk, async () => {
      const bevy = await stream.bevy(number);
      for (let i = 0; i < bevy.chunks; i++) stream.place(bevy, number * stream.perBevy + i);
      return bevy.chunks;
    });
  }
}

/** The chunks of a bevy against every digest of them. false: one could not be read, and the stream has no digest then. */
async function checkBevy(walk: Walk, stream: ImageStream, bevy: Bevy, hashes: readonly Hash[]): Promise<boolean> {
  const { volume, name } = stream;
  // The first of the algorithms is compared by reading.
  const more = stream.hashes.slice(1);
  const digests = await Promise.all(more.map(kind => stream.digests(bevy.number, kind, bevy.chunks)));
  const content = new Uint8Array(stream.chunkSize);
  let whole = true;
  for (let i = 0; i < bevy.chunks; i++) {
    const chunk = bevy.number * stream.perBevy + i;
    const length = stream.lengthOf(chunk);
    try {
      await stream.read(chunk, content);
      for (const [n, kind] of more.entries()) {
        if (stream.holds(kind, digests[n]!, chunk, content)) continue;
        const message = `the ${BLOCK_HASHES[kind]![0]} of chunk ${chunk} of ${name} does not hold`;
        throw new ImageError('corrupt', message, { file: volume.file, at: stream.place(bevy, chunk).at });
      }
      for (const hash of hashes) hash.update(content.subarray(0, length));
      walk.checked += 1;
    } catch (error) {
      whole = false;
      reportError(walk, error, { block: chunk });
    }
    step(walk, length);
  }
  return whole;
}

async function checkStream(walk: Walk, stream: ImageStream): Promise<void> {
  const { volume, name } = stream;
  const stored = storedDigests(volume, name, 'hash');
  const hashes = stored.map(({ algorithm }) => createHash(algorithm));
  let whole = true;
  for (let number = 0; number < beviesOf(stream); number++) {
    try {
      whole = (await checkBevy(walk, stream, await stream.bevy(number), hashes)) && whole;
    } catch (error) {
      whole = false;
      reportError(walk, error);
    }
  }
  if (!whole) return;
  for (const [i, { hex, algorithm }] of stored.entries()) {
    walk.checked++;
    const computed = hashes[i]!.digest('hex');
    if (computed === hex) continue;
    const message = `the ${algorithm} of the stream ${name} is ${computed}, the image says ${hex}`;
    walk.run.found({ fault: 'corrupt', message, file: volume.file, offset: 0 });
  }
}

/** What of the disk is lost, and where the rest of it lies; goes through the whole map. */
async function* rangesOf({ size, targets, layer }: ImagedDisk) {
  const lost = targets.flatMap(target => (target.kind === 'lost' ? target.source : []));
  for (let at = 0; at < size; ) {
    const place = layer.locate(at, size - at);
    if (place === null) {
      await layer.load(at, size - at);
      continue;
    }
    yield { at, place, isLost: place.kind === 'plain' && lost.includes(place.source) };
    at += place.length;
  }
}

/** Parts that could not be read when the image was made. */
async function checkLost(walk: Walk, disk: ImagedDisk, name: string): Promise<void> {
  if (!disk.targets.some(({ kind }) => kind === 'lost')) return;
  let [from, end, found] = [0, 0, 0];
  const report = (): void => {
    if (end === from || found++ >= MOST_LOST) return;
    const message = `${end - from} bytes from ${from} on could not be read when the image was made`;
    walk.run.found({ fault: 'io', message, file: walk.file, offset: 0, disk: name });
  };
  for await (const { at, place, isLost } of rangesOf(disk)) {
    walk.run.signal.throwIfAborted();
    if (!isLost) continue;
    if (at !== end) {
      report();
      from = at;
    }
    end = at + place.length;
  }
  report();
}

async function readRange(layer: Layer, at: Bytes, into: Uint8Array, unit: Uint8Array): Promise<number> {
  const place = layer.locate(at, into.length)!;
  const part = into.subarray(0, place.length);
  if (place.kind === 'plain') await place.source.read(part, place.at);
  else if (place.kind === 'packed') {
    await layer.unpack(place.unit, unit);
    part.set(unit.subarray(place.within, place.within + part.length));
  } else part.fill(0);
  return part.length;
}

/** Digests of the disk from its first byte to its last, where any are stored. */
async function checkDisk(walk: Walk, disk: ImagedDisk, volume: Volume, name: string): Promise<void> {
  const { image, map, layer } = disk;
  const objects = map === null ? [image] : [image, map.name];
  const stored = objects.flatMap(object => storedDigests(volume, object, 'hash')).filter(each => !each.isBlockMap);
  if (stored.length === 0) return;
  const hashes = stored.map(({ algorithm }) => createHash(algorithm));
  const buffer = new Uint8Array(PART);
  const unit = new Uint8Array(layer.blockSize);
  for await (const { at, place, isLost } of rangesOf(disk)) {
    for (let done = 0; done < place.length; ) {
      const into = buffer.subarray(0, Math.min(PART, place.length - done));
      let length = into.length;
      if (isLost && place.kind === 'plain') await unreadable.read(into, place.at + done);
      else length = await readRange(layer, at + done, into, unit);
      for (const hash of hashes) hash.update(into.subarray(0, length));
      done += length;
      walk.run.signal.throwIfAborted();
    }
  }
  for (const [i, { hex, algorithm }] of stored.entries()) {
    walk.checked++;
    const computed = hashes[i]!.digest('hex');
    if (computed === hex) continue;
    const message = `the ${algorithm} of the disk is ${computed}, the image says ${hex}`;
    walk.run.found({ fault: 'corrupt', message, file: walk.file, offset: 0, disk: name });
  }
}

async function checkDigests(walk: Walk, volumes: Volumes, { image }: ImagedDisk, streams: readonly ImageStream[]) {
  for (const stream of streams) {
    await guarded(walk, () => checkStreamDigests(stream, wrongIn(walk, stream.volume)));
  }
  for (const volume of volumes.all) {
    const map = factOf(volume.graph, image, 'dataStream');
    if (map !== null) await guarded(walk, () => checkMapDigests(volume, map, wrongIn(walk, volume)));
  }
  await guarded(walk, async () =>
    checkBlockMaps(volumes.all, image, streams, (found, volume) => wrongIn(walk, volume)(found)),
  );
}

/** Bevies, by where their headers lie, whose chunks have digests of their own. */
function coveredIn(volume: Volume, streams: readonly ImageStream[]): ReadonlySet<number> {
  const covered = new Set<number>();
  for (const stream of streams) {
    if (stream.volume !== volume || stream.hashes.length === 0) continue;
    for (let number = 0; number < beviesOf(stream); number++) {
      try {
        covered.add(stream.member(number, '').headerAt);
      } catch (error) {
        if (!(error instanceof ImageError)) throw error;
      }
    }
  }
  return covered;
}

/**
 * Level 1: checksums of all members, digests of maps, indexes and block hashes. Level 2: every chunk lies where one can
 * lie. Level 3: the digests of every chunk, of the streams and of the disks.
 */
export async function verifyVolumes(
  volumes: Volumes,
  disks: readonly ImagedDisk[],
  problem: ImageError | null,
  run: VerifyRun,
): Promise<Verified> {
  const streams = streamsOf(disks);
  const { file } = volumes.first;
  const total = run.level === 3 ? streams.reduce((sum, { size }) => sum + size, 0) : volumes.stored;
  const walk: Walk = { run, file, total, checked: 0, bytes: 0, done: 0 };
  if (problem !== null) reportError(walk, problem);
  for (const volume of volumes.all) {
    await checkMembers(walk, volume, run.level === 3 ? coveredIn(volume, streams) : new Set());
  }
  for (const [i, disk] of disks.entries()) {
    const own = streamsOf([disk]);
    await checkDigests(walk, volumes, disk, own);
    await guarded(walk, async () => {
      await checkLost(walk, disk, `disk${i}`);
      return 0;
    });
  }
  if (run.level === 2) for (const stream of streams) await checkPlaces(walk, stream);
  if (run.level === 3) {
    for (const stream of streams) await checkStream(walk, stream);
    for (const [i, disk] of disks.entries()) {
      await guarded(walk, async () => {
        await checkDisk(walk, disk, volumes.first, `disk${i}`);
        return 0;
      });
    }
  }
  run.progress(total, total);
  return { checked: walk.checked, bytes: walk.bytes, whole: run.level === 3 && problem === null };
}

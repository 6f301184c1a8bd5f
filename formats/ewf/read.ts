import { createHash } from 'node:crypto';
import type { Adapter, Confidence, Image, ImagePoint, LayerId, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { readDirectory } from './directory.ts';
import { chunkLayer } from './layer.ts';
import { type SegmentNames, segmentNames } from './names.ts';
import { lastSection } from './sections.ts';
import { Segments } from './segments.ts';
import { FILE_HEADER, FileHeader, RELATIVES, SIGNATURE } from './structs.ts';
import { verifyImage } from './verify.ts';
import { type FirstSegment, readFirst } from './volume.ts';

const TAIL = 4096;

const startsWith = (head: Uint8Array, text: string): boolean =>
  Buffer.from(head.subarray(0, text.length)).toString('latin1') === text;

/** Number of a segment file, from 1. */
async function segmentNumber(segments: Segments, index: number): Promise<number> {
  const file = segments.name(index);
  const head = new Uint8Array(Math.min(FILE_HEADER, segments.size(index)));
  await segments.read(index, head, 0);
  const relative = RELATIVES.find(([signature]) => startsWith(head, signature.slice(0, FILE_HEADER)));
  if (relative !== undefined) throw new ImageError('unsupported', relative[1], { file, at: 0, field: 'signature' });
  if (!startsWith(head, SIGNATURE)) throw new ImageError('not-this-format', 'not an EWF image', { file, at: 0 });
  const { segment } = FileHeader.parse(head, 0, file);
  if (segment === 0) throw new ImageError('corrupt', 'segment 0 cannot be', { file, at: 9, field: 'segment' });
  return segment;
}

async function isThere(store: Store, name: string | null): Promise<boolean> {
  if (name === null) return false;
  try {
    await using _ = await store.open(name);
    return true;
  } catch (error) {
    if (error instanceof ImageError && error.fault === 'not-found') return false;
    throw error;
  }
}

const missingSegment = (name: string, why: string): ImageError =>
  new ImageError('broken-chain', `the segment ${name} is missing${why}`, { file: name });

/** Adds the segments behind the first one, up to the one that says it is the last. */
async function addSegments(segments: Segments, names: SegmentNames | null): Promise<void> {
  for (let index = 0; (await lastSection(segments, index)) === 'next'; ) {
    index++;
    const name = names?.nameOf(index + 1) ?? null;
    if (name === null) {
      const message = `more segments follow, but ${segments.name(0)} does not say what they are called`;
      throw new ImageError('broken-chain', message, { file: segments.name(0) });
    }
    try {
      await segments.add(name);
    } catch (error) {
      if (!(error instanceof ImageError) || error.fault !== 'not-found') throw error;
      throw missingSegment(name, `: ${segments.name(index - 1)} says that it follows`);
    }
    const number = await segmentNumber(segments, index);
    if (number !== index + 1) {
      const message = `${name} should be segment ${index + 1} and is segment ${number}`;
      throw new ImageError('broken-chain', message, { file: name, at: 9, field: 'segment' });
    }
  }
}

/** The description of the disk, and of every file its length and its end, where the digests stand. */
async function identityOf(segments: Segments, first: FirstSegment): Promise<string> {
  const hash = createHash('sha256').update(first.raw).update(String(first.time?.getTime()));
  for (let index = 0; index < segments.count; index++) {
    const tail = new Uint8Array(Math.min(TAIL, segments.size(index)));
    await segments.read(index, tail, segments.size(index) - tail.length);
    hash.update(`\n${segments.size(index)}\n`).update(tail);
  }
  return `ewf:${hash.digest('hex')}`;
}

async function imageOf(name: string, segments: Segments, names: SegmentNames | null): Promise<Image> {
  const first = await readFirst(segments);
  const { geometry, time } = first;
  let problem: ImageError | null = null;
  try {
    await addSegments(segments, names);
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    problem = error;
  }
  const id = `ewf:${name}` as LayerId;
  const chunks = chunkLayer(id, segments, geometry, () => readDirectory(segments, geometry));
  const sectorSize = geometry.bytesPerSector === 4096 ? 4096 : 512;
  const layer = problem === null ? chunks.layer : null;
  const point: ImagePoint = {
    id,
    parent: null,
    set: null,
    time,
    type: 'full',
    disks: [{ name: 'disk0', size: geometry.size, sectorSize, stored: segments.total, layer }],
    identity: await identityOf(segments, first),
    problem,
  };
  return {
    adapter: 'ewf',
    name,
    encrypted: false,
    points: [point],
    warnings: first.warnings,
    notes: first.notes,
    verify: run => verifyImage(segments, geometry, chunks, problem, run),
    [Symbol.asyncDispose]: () => segments[Symbol.asyncDispose](),
  };
}

/** A segment behind the first one is shown by the first one; without that, by the lowest that is there. */
async function laterSegment(name: string, names: SegmentNames | null, number: number, store: Store): Promise<Image> {
  const first = names?.nameOf(1) ?? null;
  if (!(await isThere(store, first)) && !(await isThere(store, names?.nameOf(number - 1) ?? null))) {
    throw missingSegment(first ?? 'number 1', `: ${name} is segment ${number}`);
  }
  return { adapter: 'ewf', name, encrypted: false, points: [], warnings: [], async [Symbol.asyncDispose]() {} };
}

async function openImage(name: string, store: Store): Promise<Image> {
  const segments = new Segments(store);
  try {
    await segments.add(name);
    const number = await segmentNumber(segments, 0);
    const names = segmentNames(name, number);
    if (number === 1) return await imageOf(name, segments, names);
    const later = await laterSegment(name, names, number, store);
    await segments[Symbol.asyncDispose]();
    return later;
  } catch (error) {
    await segments[Symbol.asyncDispose]();
    throw error;
  }
}

function probe(head: Uint8Array): Confidence {
  const known = startsWith(head, SIGNATURE) || RELATIVES.some(([signature]) => startsWith(head, signature));
  return known ? 'certain' : 'no';
}

/** Reads EWF images (E01, S01) with all their segments; the first one stands for all. */
export const ewf: Adapter = {
  name: 'ewf',
  title: 'Expert Witness Compression Format (EnCase)',
  extensions: ['.e01', '.s01'],
  supports: { differencing: false, encryption: false, compression: true, write: false },
  probe,
  // FTK Imager's report.
  owns: (name, has) => /\.[es]01\.txt$/i.test(name) && has(name.slice(0, -'.txt'.length)),
  open: openImage,
};

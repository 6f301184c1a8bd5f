/** One pass over the frames of a stream: which range of the disk lies where. */
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { FRAME_HEADER_MOST, parseLz4Header } from '../../src/base/packing/lz4.ts';
import { ExtentList } from './extents.ts';
import { FRAME, type Frame, type Meta, readFrame, TERM } from './frames.ts';

/** Other work gets its turn after so many frames. */
const TURN = 64;
const MOST_EXTENTS = 2 ** 23;
const MOST_TRAILER: Bytes = 64 * 2 ** 20;
/** The length of a piece where its frame does not say: what the product asks its server for at once. */
const REQUEST: Bytes = 33_554_432;

/** Packed sizes of one data frame: one LZ4 frame, or one per piece. */
type Sizes = readonly number[];

const isSize = (value: unknown): value is number =>
  typeof value === 'number' && Number.isSafeInteger(value) && value > 0;

function sizesOf(value: unknown): Sizes | null {
  if (isSize(value)) return [value];
  if (typeof value !== 'object' || value === null) return null;
  const entries = Object.entries(value);
  const [total, sizes] = entries[0] ?? [];
  if (entries.length !== 1 || !Array.isArray(sizes) || !sizes.every(isSize) || sizes.length === 0) return null;
  return sizes.reduce((sum, size) => sum + size, 0) === Number(total) ? sizes : null;
}

/** The list before the last frame of a compressed stream: an item per data frame, in their order. */
async function readTrailer(source: ByteSource): Promise<readonly Sizes[]> {
  const at = source.size - FRAME;
  const frame = at < 0 ? null : await readFrame(source, at);
  const damaged = (why: string): never => {
    throw new ImageError('corrupt', `the list of packed sizes ${why}`, { file: source.name, at: Math.max(0, at) });
  };
  if (frame === null || frame.kind !== 'comp') return damaged('is missing: the backup did not come to its end');
  const start = at - TERM - frame.length;
  if (start < 0 || frame.length > MOST_TRAILER) return damaged('does not fit');
  const json = new Uint8Array(frame.length);
  await source.read(json, start);
  let list: unknown;
  try {
    list = JSON.parse(new TextDecoder().decode(json));
  } catch {
    damaged('is not JSON');
  }
  if (!Array.isArray(list)) return damaged('makes no sense');
  return list.map(item => sizesOf(item) ?? damaged('makes no sense'));
}

interface Pass {
  readonly source: ByteSource;
  readonly meta: Meta;
  readonly extents: ExtentList;
}

const corrupt = (source: ByteSource, message: string, at: Bytes): ImageError =>
  new ImageError('corrupt', message, { file: source.name, at });

async function contentOf(source: ByteSource, at: Bytes, stored: Bytes, left: Bytes): Promise<Bytes> {
  const head = new Uint8Array(Math.min(FRAME_HEADER_MOST, stored));
  await source.read(head, at);
  try {
    return parseLz4Header(head).contentSize ?? Math.min(left, REQUEST);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : 'damaged';
    throw new ImageError('corrupt', `an LZ4 frame is damaged: ${why}`, { file: source.name, at }, { cause });
  }
}

/** Adds one data frame; gives the offset behind its payload. */
async function addData(pass: Pass, frame: Frame, at: Bytes, sizes: Sizes | null): Promise<Bytes> {
  const { source, extents } = pass;
  if (sizes === null) {
    extents.add({ start: frame.start, length: frame.length, fileAt: at, stored: frame.length });
    return at + frame.length;
  }
  let fileAt = at;
  let start = frame.start;
  const end = frame.start + frame.length;
  for (const [i, stored] of sizes.entries()) {
    if (fileAt + stored > source.size) throw corrupt(source, 'the file ends inside a packed range', fileAt);
    // A single piece is as long as its frame; its own header is looked at when it is unpacked.
    const length = sizes.length === 1 ? frame.length : await contentOf(source, fileAt, stored, end - start);
    if (length < 1 || start + length > end || (i === sizes.length - 1 && start + length !== end)) {
      throw corrupt(source, 'the pieces of a range do not add up to it', fileAt);
    }
    extents.add({ start, length, fileAt, stored });
    fileAt += stored;
    start += length;
  }
  return fileAt;
}

function checkRange({ source, meta }: Pass, { start, length }: Frame, at: Bytes): void {
  if (length === 0 || start + length > meta.virtualSize) {
    throw corrupt(source, `a frame covers ${length} bytes at ${start}, which is not in the disk`, at);
  }
}

async function readFrames(pass: Pass): Promise<void> {
  const { source, meta, extents } = pass;
  const trailer = meta.compressed ? await readTrailer(source) : null;
  let data = 0;
  let bytes: Bytes = 0;
  let at = meta.end;
  for (let turn = 1; ; turn++) {
    const frame = await readFrame(source, at);
    const payload = at + FRAME;
    if (frame.kind === 'stop') break;
    if (frame.kind !== 'data' && frame.kind !== 'zero')
      throw corrupt(source, `a ${frame.kind} frame cannot be here`, at);
    checkRange(pass, frame, at);
    if (frame.kind === 'zero') {
      extents.add({ start: frame.start, length: frame.length, fileAt: -1, stored: 0 });
      at = payload;
    } else {
      const sizes = trailer === null ? null : trailer[data];
      if (sizes === undefined) throw corrupt(source, 'there are more data frames than packed sizes', at);
      at = (await addData(pass, frame, payload, sizes)) + TERM;
      bytes += frame.length;
      data++;
    }
    if (extents.length > MOST_EXTENTS) {
      throw new ImageError('too-big', 'the backup has too many ranges', { file: source.name, at });
    }
    if (turn % TURN === 0) await new Promise<void>(resolve => setImmediate(resolve));
  }
  if (bytes !== meta.dataSize) {
    throw corrupt(source, `the data frames hold ${bytes} bytes, the backup says ${meta.dataSize}`, at);
  }
  if (trailer !== null && data !== trailer.length) {
    throw corrupt(source, 'there are fewer data frames than packed sizes', at);
  }
}

export interface StreamIndex {
  readonly extents: ExtentList;
  /** Why frames may be lost: ranges that no frame covers are then unknown. null: all are there. */
  readonly damage: ImageError | null;
}

/** First range of the disk that a complete stream leaves out, or null. */
function firstGap(extents: ExtentList, size: Bytes): Bytes | null {
  let end: Bytes = 0;
  for (let i = 0; i < extents.length; i++) {
    const { start, length } = extents.at(i);
    if (start > end) return end;
    end = start + length;
  }
  return end < size ? end : null;
}

/** Reads every frame up to the last, or to the first that makes no sense. Throws 'corrupt' where frames overlap. */
export async function framePass(source: ByteSource, meta: Meta): Promise<StreamIndex> {
  const pass: Pass = { source, meta, extents: new ExtentList() };
  let damage: ImageError | null = null;
  try {
    await readFrames(pass);
  } catch (error) {
    if (!(error instanceof ImageError) || error.fault !== 'corrupt') throw error;
    damage = error;
  }
  const overlap = pass.extents.sort();
  if (overlap !== null) {
    throw corrupt(source, `two frames cover the disk at ${pass.extents.at(overlap).start}`, meta.end);
  }
  const gap = meta.incremental ? null : firstGap(pass.extents, meta.virtualSize);
  if (gap !== null) damage ??= corrupt(source, `no frame covers the disk at ${gap}`, source.size);
  return { extents: pass.extents, damage };
}

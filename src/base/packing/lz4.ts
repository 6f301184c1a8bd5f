/** LZ4: the block format, and the frame format 1.6.x around it (lz4, doc/lz4_Block_format.md and lz4_Frame_format.md). */
import type { ByteSource, Bytes } from '../contracts.ts';
import { ImageError } from '../errors.ts';
import { safeU64, viewOf } from '../struct.ts';
import { type XxHash, xxhash, xxhash32 } from './xxhash32.ts';

/** A match reaches back no further. */
const WINDOW: Bytes = 65_536;
const MAGIC = 0x184d_2204;
export const LZ4_MAGIC = [0x04, 0x22, 0x4d, 0x18] as const;
const SKIPPABLE = 0x184d_2a5;
const STORED = 0x8000_0000;

const bad = (why: string): never => {
  throw new RangeError(why);
};

/**
 * Decompresses one block to `out` from `to` on, no further than `end`; what lies before `to` may be referred to. Gives
 * where it ended. Throws RangeError where the block makes no sense.
 */
export function lz4Block(packed: Uint8Array, out: Uint8Array, to: number, end: number): number {
  const last = packed.length;
  let at = 0;
  while (at < last) {
    const token = packed[at++]!;
    let literals = token >> 4;
    if (literals === 15) {
      for (let more = 255; more === 255; ) {
        more = at < last ? packed[at++]! : bad('a length is cut off');
        literals += more;
      }
    }
    if (at + literals > last || to + literals > end) bad('a literal run leaves the block');
    if (literals > 32) out.set(packed.subarray(at, at + literals), to);
    else for (let i = 0; i < literals; i++) out[to + i] = packed[at + i]!;
    at += literals;
    to += literals;
    // The last sequence has literals only.
    if (at === last) return to;
    if (at + 2 > last) bad('an offset is cut off');
    const distance = packed[at]! | (packed[at + 1]! << 8);
    at += 2;
    let length = (token & 15) + 4;
    if (length === 19) {
      for (let more = 255; more === 255; ) {
        more = at < last ? packed[at++]! : bad('a length is cut off');
        length += more;
      }
    }
    if (distance === 0 || distance > to || to + length > end) bad('a match leaves the block');
    // A call costs more than some bytes one by one.
    if (length <= 48) for (const stop = to + length; to < stop; to++) out[to] = out[to - distance]!;
    else {
      if (distance >= length) out.copyWithin(to, to - distance, to - distance + length);
      else if (distance === 1) out.fill(out[to - 1]!, to, to + length);
      else for (let i = 0; i < length; i++) out[to + i] = out[to + i - distance]!;
      to += length;
    }
  }
  return bad('the block ends early');
}

export interface FrameHeader {
  /** Bytes of the header. */
  readonly length: Bytes;
  /** Blocks do not refer to what is before them. */
  readonly independent: boolean;
  readonly blockChecksums: boolean;
  readonly contentChecksum: boolean;
  readonly maxBlock: Bytes;
  /** null where the frame does not say. */
  readonly contentSize: Bytes | null;
}

export const FRAME_HEADER_MOST: Bytes = 19;

/** `raw`: at least the header. Throws RangeError where it makes no sense. */
export function parseLz4Header(raw: Uint8Array): FrameHeader {
  if (raw.length < 7 || viewOf(raw).getUint32(0, true) !== MAGIC) bad('it is not an LZ4 frame');
  const [flags, descriptor] = [raw[4]!, raw[5]!];
  if (flags >> 6 !== 1) bad(`version ${flags >> 6} of the frame is not known`);
  if ((flags & 1) !== 0) bad('dictionaries are not known');
  if ((flags & 2) !== 0 || (descriptor & 0x8f) !== 0 || descriptor < 0x40) bad('reserved bits are set');
  const hasSize = (flags & 8) !== 0;
  const length = hasSize ? 15 : 7;
  if (raw.length < length) bad('the frame is cut off');
  if (((xxhash32(raw.subarray(4, length - 1)) >>> 8) & 255) !== raw[length - 1])
    bad('the checksum of its header is wrong');
  const view = viewOf(raw);
  return {
    length,
    independent: (flags & 0x20) !== 0,
    blockChecksums: (flags & 0x10) !== 0,
    contentChecksum: (flags & 4) !== 0,
    maxBlock: 4 ** ((descriptor >> 4) + 4),
    contentSize: hasSize ? safeU64(view.getUint32(10, true), view.getUint32(6, true)) : null,
  };
}

/** How far the decoding of a frame has come. What is handed over belongs to the decoder: who keeps it takes a copy. */
export interface Position {
  /** Offset of the next block in the frame. */
  readonly frameAt: Bytes;
  /** Bytes that came out so far, and the last of them, to be referred to. */
  readonly contentAt: Bytes;
  readonly window: Uint8Array;
  readonly hash: XxHash | null;
}

export interface PlacedFrame {
  readonly source: ByteSource;
  readonly at: Bytes;
  readonly length: Bytes;
  /** Bytes that come out. */
  readonly content: Bytes;
}

const TURN: Bytes = 262_144;

async function readBlock(
  frame: PlacedFrame,
  header: FrameHeader,
  at: Bytes,
): Promise<{ raw: Uint8Array; next: Bytes }> {
  const size = new Uint8Array(4);
  if (at + 4 > frame.length) bad('the frame is cut off');
  await frame.source.read(size, frame.at + at);
  const word = viewOf(size).getUint32(0, true);
  if (word === 0) return { raw: size, next: at };
  const length = word % STORED;
  const tail = header.blockChecksums ? 4 : 0;
  if (length > header.maxBlock || at + 4 + length + tail > frame.length) bad('a block leaves the frame');
  const raw = new Uint8Array(4 + length + tail);
  await frame.source.read(raw, frame.at + at);
  if (tail > 0 && xxhash32(raw.subarray(4, 4 + length)) !== viewOf(raw).getUint32(4 + length, true)) {
    bad('the checksum of a block is wrong');
  }
  return { raw: raw.subarray(0, 4 + length), next: at + 4 + length + tail };
}

async function checkEnd(frame: PlacedFrame, header: FrameHeader, at: Bytes, content: Bytes, hash: XxHash | null) {
  if (content !== frame.content) bad(`${content} of ${frame.content} bytes come out`);
  if (at + 4 + (header.contentChecksum ? 4 : 0) !== frame.length) bad('the frame does not end where it should');
  if (!header.contentChecksum || hash === null) return;
  const sum = new Uint8Array(4);
  await frame.source.read(sum, frame.at + at + 4);
  if (viewOf(sum).getUint32(0, true) !== hash.digest()) bad('the checksum of the content is wrong');
}

/**
 * Decodes from `from` (null: the start) and hands over what comes out, with the position behind it, until `keepOn` says
 * no or the frame ends. Block checksums are looked at always, that of the content at the end of a run that began at the
 * start. Gives up the thread now and then. 'corrupt' where the frame makes no sense.
 */
export async function decodeFrame(
  frame: PlacedFrame,
  from: Position | null,
  keepOn: (part: Uint8Array, position: Position) => boolean,
): Promise<void> {
  let at = from?.frameAt ?? 0;
  try {
    const head = new Uint8Array(Math.min(FRAME_HEADER_MOST, frame.length));
    await frame.source.read(head, frame.at);
    const header = parseLz4Header(head);
    if (header.contentSize !== null && header.contentSize !== frame.content) bad('the frame holds another length');
    const out = new Uint8Array(WINDOW + header.maxBlock);
    const hash = from === null ? (header.contentChecksum ? xxhash() : null) : (from.hash?.copy() ?? null);
    let content = from?.contentAt ?? 0;
    let held = from?.window.length ?? 0;
    if (from === null) at = header.length;
    else out.set(from.window);
    for (let turn = 0; ; ) {
      const { raw, next } = await readBlock(frame, header, at);
      if (next === at) return await checkEnd(frame, header, at, content, hash);
      const packed = raw.subarray(4);
      const isStored = viewOf(raw).getUint32(0, true) >= STORED;
      if (isStored) out.set(packed, held);
      const end = isStored ? held + packed.length : lz4Block(packed, out, held, held + header.maxBlock);
      const part = out.subarray(held, end);
      content += part.length;
      at = next;
      if (content > frame.content) bad('more comes out than should');
      hash?.update(part);
      // The window is what the next block may refer to: nothing where blocks are independent.
      const keep = header.independent ? 0 : Math.min(WINDOW, end);
      const window = out.subarray(end - keep, end);
      if (!keepOn(part, { frameAt: at, contentAt: content, window, hash })) return;
      out.copyWithin(0, end - keep, end);
      held = keep;
      turn += part.length;
      if (turn >= TURN) {
        turn = 0;
        await new Promise<void>(resolve => setImmediate(resolve));
      }
    }
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    const message = `an LZ4 frame is damaged: ${cause.message}`;
    throw new ImageError('corrupt', message, { file: frame.source.name, at: frame.at + at }, { cause });
  }
}

/** One frame of a file, block by block; gives where it ends. */
async function* frameContent(file: PlacedFrame): AsyncGenerator<Uint8Array, Bytes> {
  const head = new Uint8Array(Math.min(FRAME_HEADER_MOST, file.length));
  await file.source.read(head, file.at);
  const header = parseLz4Header(head);
  const out = new Uint8Array(WINDOW + header.maxBlock);
  const hash = header.contentChecksum ? xxhash() : null;
  let content = 0;
  let held = 0;
  for (let at: Bytes = header.length; ; ) {
    const { raw, next } = await readBlock(file, header, at);
    if (next === at) {
      const end = at + 4 + (hash === null ? 0 : 4);
      if (end > file.length) bad('the frame is cut off');
      if (header.contentSize !== null && header.contentSize !== content) bad('the frame holds another length');
      const sum = new Uint8Array(4);
      if (hash !== null) await file.source.read(sum, file.at + at + 4);
      if (hash !== null && viewOf(sum).getUint32(0, true) !== hash.digest())
        bad('the checksum of the content is wrong');
      return file.at + end;
    }
    const packed = raw.subarray(4);
    const isStored = viewOf(raw).getUint32(0, true) >= STORED;
    if (isStored) out.set(packed, held);
    const end = isStored ? held + packed.length : lz4Block(packed, out, held, held + header.maxBlock);
    const part = out.slice(held, end);
    hash?.update(part);
    content += part.length;
    yield part;
    at = next;
    const keep = header.independent ? 0 : Math.min(WINDOW, end);
    out.copyWithin(0, end - keep, end);
    held = keep;
    await new Promise<void>(resolve => setImmediate(resolve));
  }
}

/** What an LZ4 file of one frame or several holds, from the start or a frame on. 'corrupt' where it makes no sense. */
export async function* lz4Content(
  source: ByteSource,
  from: Bytes = 0,
  restart: (packed: Bytes) => void = () => {},
): AsyncGenerator<Uint8Array> {
  let at = from;
  try {
    while (at < source.size) {
      const word = new Uint8Array(Math.min(8, source.size - at));
      await source.read(word, at);
      if (word.length < 8) bad('it is cut off');
      if (Math.floor(viewOf(word).getUint32(0, true) / 16) === SKIPPABLE) at += 8 + viewOf(word).getUint32(4, true);
      else {
        restart(at);
        at = yield* frameContent({ source, at, length: source.size - at, content: 0 });
      }
    }
    if (at !== source.size || at === 0) bad('it is cut off');
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    const message = `the LZ4 file is damaged: ${cause.message}`;
    throw new ImageError('corrupt', message, { file: source.name, at }, { cause });
  }
}

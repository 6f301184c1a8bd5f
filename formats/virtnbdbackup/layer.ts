/** One stream as a layer: plain where it is stored as it is, packed in units of 1 MiB where it is compressed. */
import type { ByteSource, Bytes, Layer, LayerId, Location } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { decodeFrame, type PlacedFrame, type Position } from '../../src/base/packing/lz4.ts';
import { lastAtOrBefore } from '../../src/base/range.ts';
import type { Extent, ExtentList } from './extents.ts';
import type { Meta } from './frames.ts';
import { framePass, type StreamIndex } from './pass.ts';

/** A frame of up to 32 MiB is unpacked in parts of this size. */
const UNIT: Bytes = 2 ** 20;
/** So many places where decoding can go on are kept, 64 KiB each. */
const MOST_MARKS = 128;

export interface StreamLayer {
  readonly layer: Layer;
  /** Reads the frames; concurrent calls share one pass. */
  index(): Promise<StreamIndex>;
}

/** What stands in for ranges that are lost: data that cannot be read. */
function lostSource(name: string, size: Bytes, damage: () => ImageError | null): ByteSource {
  return {
    name,
    size,
    read(_into, at) {
      const why = damage();
      const message = `the disk at ${at} is not in the backup: ${why?.message ?? 'no frame covers it'}`;
      throw new ImageError('corrupt', message, {
        file: name,
        ...(why?.where.at === undefined ? {} : { at: why.where.at }),
      });
    },
    async [Symbol.asyncDispose]() {},
  };
}

/**
 * Decodes one unit of a frame. `marks` remembers where decoding can go on at the start of a unit, by the unit's number;
 * without one it starts over.
 */
async function decodeUnit(
  frame: PlacedFrame,
  firstUnit: number,
  unit: number,
  into: Uint8Array,
  marks: Map<number, Position>,
): Promise<void> {
  let from: Position | null = null;
  for (let near = unit; near > firstUnit && from === null; near--) from = marks.get(near) ?? null;
  const start = (unit - firstUnit) * UNIT;
  const end = Math.min(start + UNIT, frame.content);
  await decodeFrame(frame, from, (part, position) => {
    const { contentAt } = position;
    const partAt = contentAt - part.length;
    if (contentAt > start && partAt < end) {
      into.set(
        part.subarray(Math.max(0, start - partAt), Math.min(part.length, end - partAt)),
        Math.max(0, partAt - start),
      );
    }
    if (contentAt % UNIT === 0 && contentAt < frame.content) {
      const window = position.window.slice();
      const mark = { ...position, window, hash: position.hash?.copy() ?? null };
      marks.delete(firstUnit + contentAt / UNIT);
      marks.set(firstUnit + contentAt / UNIT, mark);
      if (marks.size > MOST_MARKS) marks.delete(marks.keys().next().value!);
    }
    // At the end of the frame the checksum of all of it is looked at.
    return contentAt < end || contentAt === frame.content;
  });
  into.fill(0, end - start);
}

/** Number of the first unit of each range; ranges of zeros have none. */
function unitStarts(extents: ExtentList): Float64Array<ArrayBuffer> {
  const starts = new Float64Array(extents.length);
  let next = 0;
  for (let i = 0; i < extents.length; i++) {
    const { fileAt, length } = extents.at(i);
    starts[i] = next;
    if (fileAt >= 0) next += Math.ceil(length / UNIT);
  }
  return starts;
}

/** `firstUnit`: null where nothing is packed. */
function covered(extent: Extent, at: Bytes, limit: Bytes, source: ByteSource, firstUnit: number | null): Location {
  const within = at - extent.start;
  const length = Math.min(limit, extent.length - within);
  if (extent.fileAt < 0) return { kind: 'zero', length };
  if (firstUnit === null) return { kind: 'plain', source, at: extent.fileAt + within, length };
  const unit = Math.floor(within / UNIT);
  const inUnit = within - unit * UNIT;
  return { kind: 'packed', unit: firstUnit + unit, within: inUnit, length: Math.min(length, UNIT - inUnit) };
}

export function streamLayer(id: LayerId, source: ByteSource, meta: Meta): StreamLayer {
  const { virtualSize: size, compressed } = meta;
  let known: StreamIndex | null = null;
  let reading: Promise<StreamIndex> | null = null;
  let firstUnits = new Float64Array(0);
  const marks = new Map<number, Position>();
  // One after another: each goes on where the one before it stopped.
  let queue: Promise<unknown> = Promise.resolve();
  const lost = lostSource(source.name, size, () => known?.damage ?? null);

  const read = async (): Promise<StreamIndex> => {
    known = await framePass(source, meta);
    if (compressed) firstUnits = unitStarts(known.extents);
    return known;
  };
  const index = (): Promise<StreamIndex> => {
    if (known !== null) return Promise.resolve(known);
    reading ??= read().finally(() => {
      reading = null;
    });
    return reading;
  };
  const layer: Layer = {
    id,
    size,
    blockSize: UNIT,
    locate(at, limit) {
      if (known === null) return null;
      const { extents, damage } = known;
      const number = extents.before(at);
      if (number >= 0) {
        const extent = extents.at(number);
        if (at < extent.start + extent.length)
          return covered(extent, at, limit, source, compressed ? firstUnits[number]! : null);
      }
      const next = number + 1 < extents.length ? extents.at(number + 1).start : size;
      const length = Math.min(limit, next - at);
      if (meta.incremental && damage === null) return { kind: 'absent', length };
      return { kind: 'plain', source: lost, at, length };
    },
    async load() {
      await index();
    },
    async unpack(unit, into) {
      const { extents } = await index();
      const number = lastAtOrBefore(firstUnits, unit);
      const { fileAt, length, stored } = extents.at(number);
      const frame: PlacedFrame = { source, at: fileAt, length: stored, content: length };
      const turn = queue.then(() => decodeUnit(frame, firstUnits[number]!, unit, into, marks));
      queue = turn.catch(() => null);
      await turn;
    },
  };
  return { layer, index };
}

/**
 * The stream of virtnbdbackup (its libvirtnbdbackup/sparsestream/types.py): frames of 40 bytes, `"%s %016x %016x\r\n"`
 * with kind, start and length.
 */
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';

export const FRAME: Bytes = 40;
/** What follows the payload of a frame. */
export const TERM: Bytes = 2;
const META_MOST: Bytes = 2 ** 20;

export type FrameKind = 'meta' | 'data' | 'zero' | 'stop' | 'comp';

export interface Frame {
  readonly kind: FrameKind;
  readonly start: Bytes;
  readonly length: Bytes;
}

const SHAPE = /^(meta|data|zero|stop|comp) ([0-9a-f]{16}) ([0-9a-f]{16})\r\n$/;

/** null: there is no frame at the start of `raw`. */
export function parseFrame(raw: Uint8Array): Frame | null {
  if (raw.length < FRAME) return null;
  const found = SHAPE.exec(Buffer.from(raw.buffer, raw.byteOffset, FRAME).toString('latin1'));
  if (found === null) return null;
  const [start, length] = [Number.parseInt(found[2]!, 16), Number.parseInt(found[3]!, 16)];
  if (!Number.isSafeInteger(start) || !Number.isSafeInteger(start + length)) return null;
  return { kind: found[1] as FrameKind, start, length };
}

/** The frame at `at`. 'corrupt' when there is none: nothing is looked for further on. */
export async function readFrame(source: ByteSource, at: Bytes): Promise<Frame> {
  const raw = new Uint8Array(FRAME);
  if (at + FRAME > source.size) {
    throw new ImageError('corrupt', 'the file ends before its last frame', { file: source.name, at: source.size });
  }
  await source.read(raw, at);
  const frame = parseFrame(raw);
  if (frame === null) throw new ImageError('corrupt', 'there should be a frame here', { file: source.name, at });
  return frame;
}

export interface Meta {
  /** Size of the disk. */
  readonly virtualSize: Bytes;
  /** Bytes of all data frames, unpacked. */
  readonly dataSize: Bytes;
  /** Local time of the machine that made the backup, without its zone. */
  readonly date: string;
  readonly diskName: string;
  readonly checkpoint: string;
  readonly parentCheckpoint: string;
  readonly compressed: boolean;
  /** Over its parent: what no frame covers is the parent's. */
  readonly incremental: boolean;
  /** Where the frames behind it begin. */
  readonly end: Bytes;
}

const isName = (value: unknown): value is string => typeof value === 'string' && /^[\w.:+-]{0,200}$/.test(value);

function checkMeta(value: unknown, file: string, end: Bytes): Meta {
  const refuse = (field: string, fault: 'corrupt' | 'unsupported' = 'corrupt'): never => {
    throw new ImageError(fault, `${field} of the backup makes no sense or is not known`, { file, at: FRAME, field });
  };
  if (typeof value !== 'object' || value === null) return refuse('meta');
  const meta = value as Record<string, unknown>;
  const bytes = (field: string): Bytes => {
    const size = meta[field];
    return typeof size === 'number' && Number.isSafeInteger(size) && size >= 0 ? size : refuse(field);
  };
  const name = (field: string): string => {
    const text = meta[field] ?? '';
    return isName(text) ? text : refuse(field);
  };
  const version = meta.streamVersion ?? 1;
  if (version !== 1 && version !== 2) refuse('streamVersion', 'unsupported');
  const compressed = meta.compressed !== undefined && meta.compressed !== false;
  if (compressed && meta.compressionMethod !== undefined && meta.compressionMethod !== 'lz4') {
    refuse('compressionMethod', 'unsupported');
  }
  if (typeof meta.incremental !== 'boolean') refuse('incremental');
  if (name('diskName') === '') refuse('diskName');
  return {
    virtualSize: bytes('virtualSize'),
    dataSize: bytes('dataSize'),
    date: typeof meta.date === 'string' ? meta.date : '',
    diskName: name('diskName'),
    checkpoint: name('checkpointName'),
    parentCheckpoint: name('parentCheckpoint'),
    compressed,
    incremental: meta.incremental === true,
    end,
  };
}

/** The first frame. 'not-this-format' where there is none. */
export async function readMeta(source: ByteSource): Promise<Meta> {
  const file = source.name;
  const raw = new Uint8Array(Math.min(FRAME, source.size));
  await source.read(raw, 0);
  const frame = parseFrame(raw);
  if (frame === null || frame.kind !== 'meta') {
    throw new ImageError('not-this-format', 'the file does not begin with a meta frame', { file, at: 0 });
  }
  const end = FRAME + frame.length + TERM;
  if (frame.length > META_MOST || end > source.size) {
    throw new ImageError('corrupt', `a meta frame of ${frame.length} bytes does not fit`, { file, at: 0 });
  }
  const json = new Uint8Array(frame.length);
  await source.read(json, FRAME);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(json));
  } catch (cause) {
    throw new ImageError('corrupt', 'the meta frame is not JSON', { file, at: FRAME }, { cause });
  }
  return checkMeta(value, file, end);
}

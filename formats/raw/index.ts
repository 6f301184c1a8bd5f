/** Raw disks: the bytes of the disk and nothing else, as backup images and as views. */
import { createHash } from 'node:crypto';
import type {
  Adapter,
  ByteSource,
  Bytes,
  DiskFormat,
  Image,
  ImagePoint,
  Layer,
  LayerId,
  Store,
} from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { diskPiece, virtualFile } from '../../src/base/pieces.ts';
import { roundUp } from '../../src/base/range.ts';
import { hasFirst, openParts, partNameOf } from './parts.ts';
import { endByGpt, probeRaw, RAW_EXTENSIONS, sectorSizeOf } from './probe.ts';

const BLOCK: Bytes = 65536;
const SAMPLES = 64;

/** Size, both ends and 64 samples of 4 KiB between: a change that touches none of them is not seen. */
async function identityOf(source: ByteSource): Promise<string> {
  const { size } = source;
  const hash = createHash('sha256').update(`raw ${size}`);
  const add = async (at: Bytes, length: Bytes): Promise<void> => {
    const part = new Uint8Array(Math.min(length, size - at));
    await source.read(part, at);
    hash.update(part);
  };
  await add(0, BLOCK);
  for (let i = 1; i < SAMPLES && size > BLOCK; i++) await add(Math.floor((i * size) / SAMPLES), 4096);
  await add(Math.max(0, size - BLOCK), BLOCK);
  return `raw:${hash.digest('hex')}`;
}

const rawLayer = (id: LayerId, source: ByteSource, size: Bytes): Layer => ({
  id,
  size,
  blockSize: BLOCK,
  locate(at, limit) {
    if (at >= source.size) return { kind: 'zero', length: limit };
    const inside = Math.min(limit, source.size - at);
    const { kind, length } = source.extent?.(at, inside) ?? { kind: 'data', length: inside };
    return kind === 'zero' ? { kind, length } : { kind: 'plain', source, at, length };
  },
  async load() {},
  async unpack() {
    throw new ImageError('out-of-range', 'nothing is packed in a raw disk', { file: source.name });
  },
});

/** A table of partitions that reaches past the last part: then there was another one. */
function refuseMissing(next: string, end: Bytes | null, size: Bytes): void {
  if (end === null || end <= size) return;
  const message = `${next} is missing: the disk has ${end} bytes by its partition table, the parts that are here ${size}`;
  throw new ImageError('broken-chain', message, { file: next });
}

/** `next`: name of the part that would come next, for a disk that was cut. */
async function readImage(name: string, source: ByteSource, next: string | null): Promise<Image> {
  if (source.size === 0) throw new ImageError('not-this-format', 'an empty file is no disk', { file: name, at: 0 });
  const head = new Uint8Array(Math.min(source.size, 8192));
  await source.read(head, 0);
  const sectorSize = sectorSizeOf(head);
  if (next !== null) refuseMissing(next, endByGpt(head, sectorSize), source.size);
  const size = roundUp(source.size, sectorSize);
  const id = `raw:${name}` as LayerId;
  const point: ImagePoint = {
    id,
    parent: null,
    set: null,
    time: null,
    type: 'full',
    disks: [{ name: 'disk0', size, sectorSize, stored: source.size, layer: rawLayer(id, source, size) }],
    identity: await identityOf(source),
    problem: null,
  };
  const padded = `${name}: ${source.size} bytes are filled up to whole sectors of ${sectorSize} bytes with zeros`;
  return {
    adapter: 'raw',
    name,
    encrypted: false,
    points: [point],
    warnings: size === source.size ? [] : [padded],
    [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
  };
}

/** A part behind the first one is shown by the first one. */
const partImage = (name: string): Image => ({
  adapter: 'raw',
  name,
  encrypted: false,
  points: [],
  warnings: [],
  async [Symbol.asyncDispose]() {},
});

async function openImage(name: string, store: Store): Promise<Image> {
  const part = partNameOf(name, RAW_EXTENSIONS);
  const later = part !== null && part.index > 0;
  if (later && (await hasFirst(part, store))) return partImage(name);
  // Two letters may be any ending; a number says that something comes before.
  const series = part !== null && (part.index === 0 || part.by === 'numbers') ? part : null;
  const { source, next } =
    series === null ? { source: await store.open(name), next: null } : await openParts(series, store);
  try {
    return await readImage(name, source, next);
  } catch (error) {
    await source[Symbol.asyncDispose]();
    throw error;
  }
}

/** Every byte of the file is a byte of the disk. There is nothing in it to check. */
export const raw: Adapter = {
  name: 'raw',
  title: 'Raw disk',
  extensions: RAW_EXTENSIONS,
  supports: { differencing: false, encryption: false, compression: false, write: false },
  probe: (head, _tail, name) => probeRaw(head, name),
  open: (name, store) => openImage(name, store),
};

/** The disk itself, filled up to whole sectors. */
export const rawFormat: DiskFormat = {
  name: 'raw',
  title: 'Raw disk',
  layout: disk => [virtualFile('.raw', [diskPiece(roundUp(disk.size, 512))])],
};

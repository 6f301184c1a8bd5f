/** What the small files of an overlay look like. All numbers little-endian, all checksums CRC-32 (IEEE). */
import { crc32 } from 'node:zlib';
import type { Bytes } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { bytes, magic, oneOf, struct, u32le, u64le } from '../base/struct.ts';
import { BLOCK } from './states.ts';

export const HEADER_FILE = 'overlay';
const MAX_IDENTITY = 4096;
const VERSION = 1;
/** The first version let the durable map grow with its pages. */
const MAP_VERSION = 2;

/** File `overlay`: the fixed part, then the identity of the base and the overlay's own id, both UTF-8. */
const fixedPart = struct('overlay header', 64, {
  magic: [0x00, magic('BMOVRLAY')],
  version: [0x08, u32le],
  blockSize: [0x0c, u32le],
  size: [0x10, u64le],
  baseSize: [0x18, u64le],
  sectorSize: [0x20, oneOf(u32le, { s512: 512, s4096: 4096 })],
  identityLength: [0x24, u32le],
  idLength: [0x28, u32le],
  reserved: [0x2c, bytes(16)],
  /** Over the whole file, this field as zeros. */
  checksum: [0x3c, u32le],
});

export interface OverlayHeader {
  readonly id: string;
  readonly size: Bytes;
  readonly baseSize: Bytes;
  readonly sectorSize: 512 | 4096;
  readonly baseIdentity: string;
}

function sealed(content: Uint8Array<ArrayBuffer>, checksumAt: number): Uint8Array<ArrayBuffer> {
  const view = new DataView(content.buffer);
  view.setUint32(checksumAt, 0, true);
  view.setUint32(checksumAt, crc32(content), true);
  return content;
}

function checksumOf(content: Uint8Array, checksumAt: number): number {
  const copy = content.slice();
  copy.fill(0, checksumAt, checksumAt + 4);
  return crc32(copy);
}

export function buildHeader(header: OverlayHeader): Uint8Array<ArrayBuffer> {
  const identity = new TextEncoder().encode(header.baseIdentity);
  const id = new TextEncoder().encode(header.id);
  if (identity.length > MAX_IDENTITY || id.length > MAX_IDENTITY) {
    throw new ImageError('too-big', `an identity is longer than ${MAX_IDENTITY} bytes`);
  }
  const content = new Uint8Array(fixedPart.size + identity.length + id.length);
  content.set(
    fixedPart.build({
      magic: 'BMOVRLAY',
      version: VERSION,
      blockSize: BLOCK,
      size: header.size,
      baseSize: header.baseSize,
      sectorSize: `s${header.sectorSize}`,
      identityLength: identity.length,
      idLength: id.length,
      reserved: new Uint8Array(16),
      checksum: 0,
    }),
  );
  content.set(identity, fixedPart.size);
  content.set(id, fixedPart.size + identity.length);
  return sealed(content, fixedPart.offsetOf('checksum'));
}

export const MAX_HEADER = fixedPart.size + 2 * MAX_IDENTITY;

export function parseHeader(content: Uint8Array, file: string): OverlayHeader {
  const fixed = fixedPart.parse(content, 0, file);
  const refuse = (fault: 'corrupt' | 'unsupported', message: string, field: keyof typeof fixed): never => {
    throw new ImageError(fault, message, { file, at: fixedPart.offsetOf(field), field });
  };
  if (fixed.version !== VERSION) {
    refuse('unsupported', `overlay version ${fixed.version}; this program knows ${VERSION}`, 'version');
  }
  if (fixedPart.size + fixed.identityLength + fixed.idLength !== content.length) {
    refuse('corrupt', `the header is ${content.length} bytes long, which is not what it says`, 'identityLength');
  }
  if (checksumOf(content, fixedPart.offsetOf('checksum')) !== fixed.checksum) {
    refuse('corrupt', 'the checksum of the overlay header is wrong', 'checksum');
  }
  if (fixed.blockSize !== BLOCK) {
    refuse('unsupported', `blocks of ${fixed.blockSize} bytes; this program knows ${BLOCK}`, 'blockSize');
  }
  const idAt = fixedPart.size + fixed.identityLength;
  return {
    id: new TextDecoder().decode(content.subarray(idAt)),
    size: fixed.size,
    baseSize: fixed.baseSize,
    sectorSize: fixed.sectorSize === 's512' ? 512 : 4096,
    baseIdentity: new TextDecoder().decode(content.subarray(fixedPart.size, idAt)),
  };
}

/** First 4 KiB of a map file. */
const mapPart = struct('presence map header', 256, {
  magic: [0x00, magic('BMPRESNC')],
  version: [0x08, u32le],
  state: [0x0c, oneOf(u32le, { durable: 0, recent: 1, failed: 2 })],
  /** Boot in which a recent map is worth something; zeros in a durable one. */
  boot: [0x10, bytes(64)],
  overlay: [0x50, bytes(64)],
  checksum: [0x90, u32le],
});

export interface MapHeader {
  /** The file has had its full length from the start. */
  readonly whole: boolean;
  readonly state: 'durable' | 'recent' | 'failed';
  readonly boot: string;
  readonly overlay: string;
}

const padded = (text: string): Uint8Array => {
  const out = new Uint8Array(64);
  out.set(new TextEncoder().encode(text).subarray(0, 64));
  return out;
};

export const MAP_HEADER = 256;

export function buildMapHeader(header: MapHeader): Uint8Array<ArrayBuffer> {
  const content = mapPart.build({
    magic: 'BMPRESNC',
    version: header.whole ? MAP_VERSION : 1,
    state: header.state,
    boot: padded(header.boot),
    overlay: padded(header.overlay),
    checksum: 0,
  });
  return sealed(content, mapPart.offsetOf('checksum'));
}

export function parseMapHeader(content: Uint8Array, file: string): MapHeader {
  const fixed = mapPart.parse(content, 0, file);
  if (checksumOf(content, mapPart.offsetOf('checksum')) !== fixed.checksum) {
    throw new ImageError('corrupt', 'the checksum of the presence map is wrong', {
      file,
      at: mapPart.offsetOf('checksum'),
      field: 'checksum',
    });
  }
  if (fixed.version < 1 || fixed.version > MAP_VERSION) {
    throw new ImageError('unsupported', `presence map version ${fixed.version}; this program knows ${MAP_VERSION}`, {
      file,
      at: mapPart.offsetOf('version'),
      field: 'version',
    });
  }
  const text = (padding: Uint8Array): string => {
    const end = padding.indexOf(0);
    return new TextDecoder().decode(end < 0 ? padding : padding.subarray(0, end));
  };
  return {
    whole: fixed.version === MAP_VERSION,
    state: fixed.state,
    boot: text(fixed.boot),
    overlay: text(fixed.overlay),
  };
}

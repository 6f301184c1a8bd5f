/** Writes backups for tests, apart from the code that reads them; LZ4 frames are made by the `lz4` program. */
import { execFileSync } from 'node:child_process';
import { xxhash32 } from '../../src/base/packing/xxhash32.ts';

/** An LZ4 frame by the `lz4` program. */
export const lz4Frame = (data: Uint8Array, options: readonly string[]): Buffer =>
  execFileSync('lz4', ['-q', ...options, '-c'], { input: data, maxBuffer: 2 ** 28 });

/** As the product's library makes it: linked blocks of 64 KiB, all checksums, and its size in the header. */
export function sizedFrame(data: Uint8Array): Buffer {
  const frame = lz4Frame(data, ['-B4', '-BD', '-BX']);
  const head = Buffer.alloc(15);
  frame.copy(head, 0, 0, 6);
  head[4]! |= 8;
  head.writeBigUInt64LE(BigInt(data.length), 6);
  head[14] = (xxhash32(head.subarray(4, 14)) >>> 8) & 255;
  return Buffer.concat([head, frame.subarray(7)]);
}

export interface Range {
  readonly start: number;
  /** The data, or the length of a range of zeros. */
  readonly data: Uint8Array | number;
}

export interface StreamSpec {
  readonly size: number;
  readonly disk?: string;
  readonly checkpoint: string;
  readonly parent?: string;
  readonly ranges: readonly Range[];
  /** Lengths of the pieces that a packed range is cut into; undefined: not packed. */
  readonly piece?: number;
  readonly pack?: (data: Uint8Array) => Buffer;
  readonly change?: Record<string, unknown>;
}

const frame = (kind: string, start: number, length: number): Buffer =>
  Buffer.from(`${kind} ${start.toString(16).padStart(16, '0')} ${length.toString(16).padStart(16, '0')}\r\n`);

export function stream(spec: StreamSpec): Buffer {
  const { size, ranges, piece, pack = sizedFrame } = spec;
  const dataSize = ranges.reduce((sum, { data }) => sum + (typeof data === 'number' ? 0 : data.length), 0);
  const meta = Buffer.from(
    JSON.stringify({
      virtualSize: size,
      dataSize,
      date: '2026-11-20T16:19:21.717870',
      diskName: spec.disk ?? 'sda',
      diskFormat: 'qcow2',
      checkpointName: spec.checkpoint,
      compressed: piece === undefined ? false : 2,
      compressionMethod: 'lz4',
      parentCheckpoint: spec.parent ?? '',
      incremental: spec.parent !== undefined,
      streamVersion: 2,
      ...spec.change,
    }),
  );
  const term = Buffer.from('\r\n');
  const parts: Buffer[] = [frame('meta', 0, meta.length), meta, term];
  const trailer: unknown[] = [];
  for (const { start, data } of ranges) {
    if (typeof data === 'number') parts.push(frame('zero', start, data));
    else if (piece === undefined) parts.push(frame('data', start, data.length), Buffer.from(data), term);
    else {
      const packed: Buffer[] = [];
      for (let at = 0; at < data.length; at += piece) packed.push(pack(data.subarray(at, at + piece)));
      const sizes = packed.map(({ length }) => length);
      const total = sizes.reduce((sum, length) => sum + length, 0);
      trailer.push(sizes.length === 1 ? total : { [total]: sizes });
      parts.push(frame('data', start, data.length), ...packed, term);
    }
  }
  parts.push(frame('stop', 0, 0));
  if (piece !== undefined) {
    const list = Buffer.from(JSON.stringify(trailer));
    parts.push(list, term, frame('comp', 0, list.length));
  }
  return Buffer.concat(parts);
}

/** Bytes that can be packed, but not too well. */
export function content(length: number, seed: number): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(length);
  let state = seed;
  for (let at = 0; at < length; at++) {
    if (at % 7 === 0) state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    out[at] = at % 4096 < 3000 ? (state >>> 24) & 31 : 65;
  }
  return out;
}

export const domainXml = (name: string, disks: readonly string[]): Buffer => {
  const each = disks.map(dev => `<disk type='file' device='disk'><target dev='${dev}' bus='virtio'/></disk>`);
  return Buffer.from(
    `<domain><name>${name}</name><devices>${each.join('')}<disk device='cdrom'><target dev='hdc'/></disk></devices></domain>`,
  );
};

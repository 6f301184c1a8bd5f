/** Writes archives for tests, after vma_spec.txt, apart from the code that reads them. */
import { createHash } from 'node:crypto';

export interface FixtureDevice {
  readonly name: string;
  readonly content: Uint8Array;
}

export interface FixtureSpec {
  readonly devices: readonly FixtureDevice[];
  readonly config?: string;
  /** Order in which the clusters of all devices are written; as they come unless told. */
  readonly order?: (clusters: readonly Listed[]) => readonly Listed[];
  /** Slots used of each extent, 59 unless told. */
  readonly slots?: number;
}

export interface Listed {
  readonly device: number;
  readonly cluster: number;
}

const md5 = (data: Uint8Array): Buffer => createHash('md5').update(data).digest();
const UUID = Buffer.from('00112233445566778899aabbccddeeff', 'hex');

function headerOf(spec: FixtureSpec): Buffer {
  const blobs: Buffer[] = [Buffer.alloc(1)];
  const add = (data: Buffer): number => {
    const at = blobs.reduce((sum, blob) => sum + blob.length, 0);
    const length = Buffer.alloc(2);
    length.writeUInt16LE(data.length);
    blobs.push(length, data);
    return at;
  };
  const header = Buffer.alloc(12_288);
  header.write('VMA\0', 0, 'latin1');
  header.writeUInt32BE(1, 4);
  UUID.copy(header, 8);
  header.writeBigUInt64BE(1_795_168_800n, 24);
  if (spec.config !== undefined) {
    header.writeUInt32BE(add(Buffer.from('qemu-server.conf\0')), 2044);
    header.writeUInt32BE(add(Buffer.from(spec.config)), 3068);
  }
  for (const [i, { name, content }] of spec.devices.entries()) {
    header.writeUInt32BE(add(Buffer.from(`${name}\0`)), 4096 + (i + 1) * 32);
    header.writeBigUInt64BE(BigInt(content.length), 4096 + (i + 1) * 32 + 8);
  }
  const blob = Buffer.concat(blobs);
  const size = Math.ceil((12_288 + blob.length) / 512) * 512;
  header.writeUInt32BE(12_288, 48);
  header.writeUInt32BE(blob.length, 52);
  header.writeUInt32BE(size, 56);
  const whole = Buffer.concat([header, blob, Buffer.alloc(size - 12_288 - blob.length)]);
  md5(whole).copy(whole, 32);
  return whole;
}

function extentOf(listed: readonly Listed[], devices: readonly FixtureDevice[]): Buffer {
  const header = Buffer.alloc(512);
  const pieces: Uint8Array[] = [];
  for (const [slot, { device, cluster }] of listed.entries()) {
    const padded = Buffer.alloc(65_536);
    padded.set(devices[device - 1]!.content.subarray(cluster * 65_536, (cluster + 1) * 65_536));
    let mask = 0;
    for (let piece = 0; piece < 16; piece++) {
      const part = padded.subarray(piece * 4096, (piece + 1) * 4096);
      if (part.every(byte => byte === 0)) continue;
      mask |= 1 << piece;
      pieces.push(part);
    }
    header.writeUInt16BE(mask, 40 + slot * 8);
    header.writeUInt8(device, 40 + slot * 8 + 3);
    header.writeUInt32BE(cluster, 40 + slot * 8 + 4);
  }
  header.write('VMAE', 0, 'latin1');
  header.writeUInt16BE(pieces.length, 6);
  UUID.copy(header, 8);
  md5(header).copy(header, 24);
  return Buffer.concat([header, ...pieces]);
}

export function archive(spec: FixtureSpec): Buffer {
  const all = spec.devices.flatMap(({ content }, i) =>
    Array.from({ length: Math.ceil(content.length / 65_536) }, (_, cluster) => ({ device: i + 1, cluster })),
  );
  const ordered = spec.order?.(all) ?? all;
  const parts = [headerOf(spec)];
  const slots = spec.slots ?? 59;
  for (let at = 0; at < ordered.length; at += slots) {
    parts.push(extentOf(ordered.slice(at, at + slots), spec.devices));
  }
  return Buffer.concat(parts);
}

/** Content with clusters and pieces of zeros between data. */
export function deviceContent(size: number, seed: number): Uint8Array<ArrayBuffer> {
  const content = new Uint8Array(size);
  for (let at = 0; at < size; at++) {
    const piece = Math.floor(at / 4096);
    if (piece % 5 === 0 || Math.floor(piece / 16) % 3 === 1) continue;
    content[at] = 1 + ((at * 31 + piece * 7 + seed) % 255);
  }
  return content;
}

/**
 * Members of md arrays, written from the description of the superblocks (Linux RAID wiki, "RAID superblock formats";
 * linux/raid/md_p.h): without md in the kernel, mdadm makes none. mdadm and GRUB judge them.
 */
import { noise } from './volume-images.ts';

export interface ArraySpec {
  readonly level: number;
  readonly layout: number;
  readonly members: number;
  /** Bytes. */
  readonly chunk: number;
  readonly version: '0.90' | '1.0' | '1.1' | '1.2';
  readonly name: string;
  /** Of each member: what it can hold of data. */
  readonly legSizes: readonly number[];
}

const SECTOR = 512;
const DATA_AT = 1_048_576;
export const ARRAY_UUID = '00112233445566778899aabbccddeeff';
const UUID = Buffer.from(ARRAY_UUID, 'hex');

/** Member and offset of every copy of a chunk, and the members of its stripe's parities: one line for each layout. */
function placesOf({ level, layout, members: n, legSizes, chunk }: ArraySpec, c: number): readonly [number, number][] {
  const mod = (x: number): number => ((x % n) + n) % n;
  switch (level) {
    case 0:
      return [[c % n, Math.floor(c / n)]];
    case 1:
      return Array.from({ length: n }, (_, i): [number, number] => [i, c]);
    case 4:
      return [[c % (n - 1), Math.floor(c / (n - 1))]];
    case 5: {
      const s = Math.floor(c / (n - 1));
      const d = c % (n - 1);
      const p = [n - 1 - (s % n), s % n][layout % 2]!;
      return [[layout < 2 ? (d < p ? d : d + 1) : mod(p + 1 + d), s]];
    }
    case 6: {
      const s = Math.floor(c / (n - 2));
      const d = c % (n - 2);
      const p = [n - 1 - (s % n), s % n][layout % 2]!;
      if (layout >= 2) return [[mod(p + 2 + d), s]];
      return [[p === n - 1 ? d + 1 : d < p ? d : d + 2, s]];
    }
    default: {
      const [near, far, offset] = [layout & 255, (layout >> 8) & 255, layout >> 16];
      const rows = Math.floor(legSizes[0]! / chunk / far);
      const places: [number, number][] = [];
      for (let i = 0; i < near; i++) {
        const row = Math.floor((c * near + i) / n);
        for (let f = 0; f < far; f++) {
          const member = mod(c * near + i + f * near);
          places.push([member, offset === 1 ? row * far + f : row + f * rows]);
        }
      }
      return places;
    }
  }
}

export function dataSize({ level, layout, members: n, legSizes }: ArraySpec): number {
  const [leg] = legSizes as [number];
  if (level === 0) return n * leg;
  if (level === 1) return leg;
  if (level === 10) return (leg * n) / (layout & 255) / ((layout >> 8) & 255);
  return (n - (level === 6 ? 2 : 1)) * leg;
}

/** Exclusive or of the data of every stripe, on the member that keeps it. */
function addParity({ level, layout, members: n, chunk, legSizes }: ArraySpec, legs: readonly Buffer[]): void {
  for (let s = 0; s * chunk < legSizes[0]!; s++) {
    const p = level === 4 ? n - 1 : [n - 1 - (s % n), s % n][layout % 2]!;
    const q = level === 6 ? (p + 1) % n : -1;
    const at = s * chunk;
    for (let i = 0; i < n; i++) {
      if (i === p || i === q) continue;
      const [into, from] = [legs[p]!, legs[i]!].map(leg => new Int32Array(leg.buffer, leg.byteOffset + at, chunk / 4));
      for (let b = 0; b < chunk / 4; b++) into![b]! ^= from![b]!;
    }
    // The second parity is not looked at; it is no copy of anything.
    if (q >= 0) legs[q]!.set(noise(chunk, s), at);
  }
}

function superblock1(spec: ArraySpec, member: number, size: number, events: number): readonly [Buffer, number, number] {
  const sb = Buffer.alloc(4096);
  const [superAt, dataAt] =
    spec.version === '1.0' ? [size - 8192 - (size % 4096), 0] : [spec.version === '1.1' ? 0 : 4096, DATA_AT];
  const u64 = (value: number, at: number) => sb.writeBigUInt64LE(BigInt(value), at);
  sb.writeUInt32LE(0xa92b4efc, 0);
  sb.writeUInt32LE(1, 4);
  UUID.copy(sb, 16);
  sb.write(`host:${spec.name}`, 32);
  sb.writeInt32LE(spec.level, 72);
  sb.writeUInt32LE(spec.layout, 76);
  u64(spec.level === 0 ? 0 : spec.legSizes[0]! / SECTOR, 80);
  sb.writeUInt32LE(spec.level === 1 ? 0 : spec.chunk / SECTOR, 88);
  sb.writeUInt32LE(spec.members, 92);
  u64(dataAt / SECTOR, 128);
  u64(spec.legSizes[member]! / SECTOR, 136);
  u64(superAt / SECTOR, 144);
  sb.writeUInt32LE(member, 160);
  sb.fill(member + 1, 168, 184);
  u64(events, 200);
  sb.writeBigUInt64LE(0xffff_ffff_ffff_ffffn, 208);
  sb.writeUInt32LE(128, 220);
  for (let i = 0; i < 128; i++) sb.writeUInt16LE(i < spec.members ? i : 0xffff, 256 + 2 * i);
  return [sealed(sb.subarray(0, 512), 216), superAt, dataAt];
}

function superblock0(spec: ArraySpec, member: number, size: number, events: number): readonly [Buffer, number, number] {
  const sb = Buffer.alloc(4096);
  const word = (index: number, value: number) => sb.writeUInt32LE(value, index * 4);
  word(0, 0xa92b4efc);
  word(2, 90);
  word(5, UUID.readUInt32LE(0));
  for (let i = 1; i < 4; i++) word(12 + i, UUID.readUInt32LE(4 * i));
  word(7, spec.level);
  word(8, spec.legSizes[0]! / 1024);
  word(9, spec.members);
  word(10, spec.members);
  word(11, Number(spec.name));
  word(33, 1);
  word(34, spec.members);
  word(35, spec.members);
  word(39, events);
  word(64, spec.layout);
  word(65, spec.level === 1 ? 0 : spec.chunk);
  for (let i = 0; i < spec.members; i++) {
    for (const [n, value] of [i, 8, i, i, 6].entries()) word(128 + 32 * i + n, value);
  }
  sb.copy(sb, 992 * 4, (128 + 32 * member) * 4, (128 + 32 * member + 5) * 4);
  return [sealed(sb, 38 * 4), size - (size % 65_536) - 65_536, 0];
}

/** The sum of all words at `at`. */
function sealed(sb: Buffer, at: number): Buffer {
  let sum = 0n;
  for (let i = 0; i < sb.length; i += 4) if (i !== at) sum += BigInt(sb.readUInt32LE(i));
  sb.writeUInt32LE(Number(((sum & 0xffff_ffffn) + (sum >> 32n)) & 0xffff_ffffn), at);
  return sb;
}

/** The members of an array that holds `content`, which is as long as `dataSize` says. */
export function arrayMembers(spec: ArraySpec, content: Buffer, events = 10): readonly Buffer[] {
  const legs = spec.legSizes.map(size => Buffer.from(new ArrayBuffer(size)));
  for (let c = 0; c * spec.chunk < content.length; c++) {
    const part = content.subarray(c * spec.chunk, (c + 1) * spec.chunk);
    for (const [member, row] of placesOf(spec, c)) part.copy(legs[member]!, row * spec.chunk);
  }
  if (spec.level >= 4 && spec.level <= 6) addParity(spec, legs);
  return legs.map((leg, i) => {
    const size = leg.length + 2 * DATA_AT;
    const image = Buffer.alloc(size);
    const [sb, superAt, dataAt] = (spec.version === '0.90' ? superblock0 : superblock1)(spec, i, size, events);
    leg.copy(image, dataAt);
    sb.copy(image, superAt);
    return image;
  });
}

/**
 * A folder of very many files, written right into a fresh exFAT image: no program at hand fills one in less than minutes.
 * Source: Microsoft, "exFAT file system specification".
 */
import fs from 'node:fs';

export interface ExfatFile {
  readonly name: string;
  /** 0, or at most a cluster. */
  readonly size: number;
  /** Kept to a hundredth of a second, in UTC. */
  readonly mtime: Date;
}

const ENTRY = 32;
const UNITS = 15;
const TYPE = { bitmap: 0x81, upcase: 0x82, file: 0x85, stream: 0xc0, name: 0xc1 } as const;
const ATTRIBUTE = { dir: 0x10, archive: 0x20 } as const;
const ALLOCATED = 1;
const NO_CHAIN = 2;
const END = 0xffff_ffff;
const UTC = 0x80;

/** The sum of names (7.6.3) and entry sets (6.3.3). */
function sumOf(bytes: Buffer, skips: boolean): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i++) {
    if (!skips || (i !== 2 && i !== 3)) sum = (((sum & 1) << 15) + (sum >> 1) + bytes[i]!) & 0xffff;
  }
  return sum;
}

/** 7.2.5: a mark and a count stand for so many characters that are their own upper case; the mark is the last character, too. */
function upcaseTable(stored: Buffer): Uint16Array {
  const table = Uint16Array.from({ length: 65_536 }, (_, i) => i);
  for (let at = 0, unit = 0; at < stored.length; at += 2) {
    const word = stored.readUInt16LE(at);
    if (word !== 0xffff || at + 2 === stored.length) table[unit++] = word;
    else {
      at += 2;
      unit += stored.readUInt16LE(at);
    }
  }
  return table;
}

/** 7.4.8: a double word; what it has no room for, in hundredths. */
function timestampOf(time: Date): readonly [number, number] {
  const day = ((time.getUTCFullYear() - 1980) << 25) | ((time.getUTCMonth() + 1) << 21) | (time.getUTCDate() << 16);
  const clock = (time.getUTCHours() << 11) | (time.getUTCMinutes() << 5) | (time.getUTCSeconds() >> 1);
  const hundredths = (time.getUTCSeconds() % 2) * 100 + Math.floor(time.getUTCMilliseconds() / 10);
  return [(day | clock) >>> 0, hundredths];
}

interface Place {
  readonly attributes: number;
  readonly flags: number;
  readonly cluster: number;
}

function entrySet(
  { name, size, mtime }: ExfatFile,
  { attributes, flags, cluster }: Place,
  upcase: Uint16Array,
): Buffer {
  const units = Buffer.from(name, 'utf16le');
  const count = Math.ceil(units.length / 2 / UNITS);
  const set = Buffer.alloc((2 + count) * ENTRY);
  const [time, hundredths] = timestampOf(mtime);
  set.writeUInt8(TYPE.file, 0);
  set.writeUInt8(1 + count, 1);
  set.writeUInt16LE(attributes, 4);
  for (const at of [8, 12, 16]) set.writeUInt32LE(time, at);
  for (const at of [20, 21]) set.writeUInt8(hundredths, at);
  for (const at of [22, 23, 24]) set.writeUInt8(UTC, at);
  const upper = Buffer.alloc(units.length);
  for (let at = 0; at < units.length; at += 2) upper.writeUInt16LE(upcase[units.readUInt16LE(at)]!, at);
  set.writeUInt8(TYPE.stream, ENTRY);
  set.writeUInt8(flags, ENTRY + 1);
  set.writeUInt8(units.length / 2, ENTRY + 3);
  set.writeUInt16LE(sumOf(upper, false), ENTRY + 4);
  set.writeUInt32LE(cluster, ENTRY + 20);
  for (const at of [8, 24]) set.writeBigUInt64LE(BigInt(size), ENTRY + at);
  for (let i = 0; i < count; i++) {
    const at = (2 + i) * ENTRY;
    set.writeUInt8(TYPE.name, at);
    units.copy(set, at + 2, i * 2 * UNITS, (i + 1) * 2 * UNITS);
  }
  set.writeUInt16LE(sumOf(set, true), 2);
  return set;
}

/** The folder's clusters lie backwards, those of files with something in them before. */
export function addExfatFolder(file: string, name: string, files: readonly ExfatFile[]): void {
  const image = fs.readFileSync(file);
  const sector = 2 ** image[108]!;
  const clusterSize = sector * 2 ** image[109]!;
  const [fatAt, heapAt] = [image.readUInt32LE(80) * sector, image.readUInt32LE(88) * sector];
  const clusterAt = (cluster: number): number => heapAt + (cluster - 2) * clusterSize;
  const root = image.subarray(clusterAt(image.readUInt32LE(96)), clusterAt(image.readUInt32LE(96)) + clusterSize);
  const stored = (type: number): Buffer => {
    let entry = 0;
    while (root[entry] !== type) entry += ENTRY;
    const at = clusterAt(root.readUInt32LE(entry + 20));
    return image.subarray(at, at + Number(root.readBigUInt64LE(entry + 24)));
  };
  const [bitmap, upcase] = [stored(TYPE.bitmap), upcaseTable(stored(TYPE.upcase))];
  let next = 2;
  for (let i = 0; i < bitmap.length * 8; i++) if (((bitmap[i >> 3]! >> (i % 8)) & 1) === 1) next = i + 3;
  const take = (): number => {
    bitmap[(next - 2) >> 3]! |= 1 << ((next - 2) % 8);
    return next++;
  };

  const sets = files.map(its => {
    const used = its.size > 0;
    const cluster = used ? take() : 0;
    if (used) image.fill(its.name, clusterAt(cluster), clusterAt(cluster) + its.size, 'utf16le');
    const flags = used ? ALLOCATED | NO_CHAIN : ALLOCATED;
    return entrySet(its, { attributes: ATTRIBUTE.archive, flags, cluster }, upcase);
  });
  const folder = Buffer.concat(sets);
  const size = Math.ceil(folder.length / clusterSize) * clusterSize;
  const chain = Array.from({ length: size / clusterSize }, take).reverse();
  for (const [i, cluster] of chain.entries()) {
    image.writeUInt32LE(chain[i + 1] ?? END, fatAt + cluster * 4);
    folder.copy(image, clusterAt(cluster), i * clusterSize, (i + 1) * clusterSize);
  }
  const place = { attributes: ATTRIBUTE.dir, flags: ALLOCATED, cluster: chain[0]! };
  let end = 0;
  while (root[end] !== 0) end += ENTRY;
  entrySet({ name, size, mtime: files[0]!.mtime }, place, upcase).copy(root, end);
  fs.writeFileSync(file, image);
}

const FORBIDDEN = new Set(Array.from('"*/:<>?\\|', c => c.charCodeAt(0)));
const isLegal = (unit: number): boolean => unit >= 0x20 && !FORBIDDEN.has(unit) && !(unit >= 0xd800 && unit < 0xe000);
const LEGAL = Array.from({ length: 65_536 }, (_, unit) => unit).filter(isLegal);

/**
 * Names that differ in their first characters, so that no two are one in upper case. Of 65,000 and more names each
 * character that the format allows is in one (7.7.3); those beyond the first 65,536 in others; lengths from 1 to 255.
 */
export function awkwardName(i: number): string {
  if (i === 0) return '~';
  const unit = LEGAL[i - 1] ?? 0x1_0000 + ((i * 41) % 0x10_0000);
  const name = `${i.toString(36).padStart(4, '0')}${String.fromCodePoint(unit)}`;
  if (i % 400 === 1) return `${name}${'é'.repeat((i * 11) % 251)}`;
  return i % 400 === 2 ? `${name}${'\u{1f600}'.repeat((i * 7) % 126)}` : name;
}

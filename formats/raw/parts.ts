/** Raw disks that were cut into files of one length: `disk.001`, `disk.002` …, or `disk.raw.aa`, `disk.raw.ab` …. */
import type { ByteSource, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { joinedSource } from '../../src/base/joined.ts';

export interface PartName {
  /** What stands before the number. */
  readonly stem: string;
  /** 0 for the first part. */
  readonly index: number;
  readonly by: 'numbers' | 'letters';
  nameOf(index: number): string;
}

/** More parts than this are no disk that was cut. */
const MOST_PARTS = 10_000;
/** So far behind the last part another one is looked for, which would show a gap. */
const LOOK_BEHIND = 32;
/** Endings of two letters that `split` would come to, and that mean something else. */
const COMPRESSED = ['br', 'gz', 'lz', 'sz', 'xz'];
const A = 'a'.charCodeAt(0);
const twoLetters = (index: number): string => String.fromCharCode(A + Math.floor(index / 26), A + (index % 26));

export const saysRaw = (name: string, extensions: readonly string[]): boolean =>
  extensions.some(extension => name.toLowerCase().endsWith(extension));

/**
 * null: the name is not one of a series. Letters, and numbers of four digits, count only behind a name that says that it
 * is a raw disk.
 */
export function partNameOf(name: string, extensions: readonly string[]): PartName | null {
  const [, stem, ending] = /^(.*[^/])\.([^./]+)$/.exec(name) ?? [];
  if (stem === undefined || ending === undefined) return null;
  const raw = saysRaw(stem, extensions);
  if (/^\d{3}$/.test(ending) ? ending !== '000' : raw && /^[1-9]\d{3}$/.test(ending)) {
    const nameOf = (index: number): string => `${stem}.${String(index + 1).padStart(3, '0')}`;
    return { stem, index: Number(ending) - 1, by: 'numbers', nameOf };
  }
  if (!raw || !/^[a-z]{2}$/.test(ending) || COMPRESSED.includes(ending)) return null;
  const index = (ending.charCodeAt(0) - A) * 26 + ending.charCodeAt(1) - A;
  return { stem, index, by: 'letters', nameOf: at => `${stem}.${twoLetters(at)}` };
}

async function openIfThere(store: Store, name: string): Promise<ByteSource | null> {
  try {
    return await store.open(name);
  } catch (error) {
    if (error instanceof ImageError && error.fault === 'not-found') return null;
    throw error;
  }
}

/** Beginnings of images: snapshots of one disk are numbered too, and one of them continues nothing. */
const IMAGES = ['QFI\xfb', 'QED\0', 'conectix', 'vhdxfile', 'KDMV', 'COWD', '# Disk Descriptor', 'Without'];

async function isImage(source: ByteSource): Promise<boolean> {
  const head = new Uint8Array(Math.min(16, source.size));
  await source.read(head, 0);
  const text = Buffer.from(head).toString('latin1');
  return IMAGES.some(magic => text.startsWith(magic));
}

/** A file behind the last one that was found: then what lies between is missing. */
async function refuseGap(store: Store, part: PartName, missing: number): Promise<void> {
  for (let index = missing + 1; index <= missing + LOOK_BEHIND; index++) {
    await using behind = await openIfThere(store, part.nameOf(index));
    if (behind === null) continue;
    const message = `${part.nameOf(missing)} is missing: ${behind.name} comes behind it`;
    throw new ImageError('broken-chain', message, { file: part.nameOf(missing) });
  }
}

/** Every part is as long as the first one, and only the last may be shorter. */
function checkLengths(parts: readonly ByteSource[]): void {
  const { size, name } = parts[0]!;
  for (const [i, part] of parts.entries()) {
    if (part.size === size || (i === parts.length - 1 && part.size < size && part.size > 0)) continue;
    const message = `a part of ${part.size} bytes, where ${name} has ${size}: it is cut, or belongs to something else`;
    throw new ImageError('broken-chain', message, { file: part.name, at: part.size });
  }
}

/** Parts one after another, as far as they are there; whether an image of its own ends the series. */
async function openSeries(part: PartName, store: Store, parts: ByteSource[]): Promise<{ readonly ended: boolean }> {
  for (let index = 0; ; index++) {
    const source = await openIfThere(store, part.nameOf(index));
    if (source === null) return { ended: false };
    parts.push(source);
    if (index > 0 && (await isImage(source))) {
      await parts.pop()![Symbol.asyncDispose]();
      return { ended: true };
    }
    if (index === MOST_PARTS)
      throw new ImageError('unsupported', `more than ${MOST_PARTS} parts`, { file: source.name });
  }
}

export interface Joined {
  readonly source: ByteSource;
  /** Name that one more part would have. */
  readonly next: string;
}

/** All parts from the first one on as one file. 'broken-chain' for a gap, and for a part of another length. */
export async function openParts(part: PartName, store: Store): Promise<Joined> {
  const parts: ByteSource[] = [];
  try {
    const { ended } = await openSeries(part, store, parts);
    if (parts.length === 0) {
      throw new ImageError('broken-chain', `the first part, ${part.nameOf(0)}, is missing`, { file: part.nameOf(0) });
    }
    if (!ended) await refuseGap(store, part, parts.length);
    checkLengths(parts);
    const source = parts.length === 1 ? parts[0]! : joinedSource(part.nameOf(0), parts);
    return { source, next: part.nameOf(parts.length) };
  } catch (error) {
    for (const each of parts) await each[Symbol.asyncDispose]();
    throw error;
  }
}

/** Whether the file belongs to a series that begins with another one. */
export async function hasFirst(part: PartName, store: Store): Promise<boolean> {
  await using first = await openIfThere(store, part.nameOf(0));
  return first !== null;
}

/** Sample images of other software, `../shared/images` beside the checkout. Not part of the project: tests skip without them. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import zlib from 'node:zlib';
import { isZero } from '../../src/base/range.ts';

export const SAMPLES = path.resolve(import.meta.dirname, '../../../shared/images');

export interface Expected {
  readonly file: string;
  readonly format: string;
  readonly wrap: string | null;
  readonly unpacked_bytes?: number;
  readonly expect:
    | { readonly kind: 'content'; readonly size: number; readonly sha256: string | null; readonly nz64k?: string }
    | { readonly kind: 'error'; readonly error: string }
    | { readonly kind: string };
}

let list: readonly Expected[] | null = null;

/** What is known about every sample; empty when there are none. */
export function expectations(): readonly Expected[] {
  if (list !== null) return list;
  try {
    const text = fs.readFileSync(path.join(SAMPLES, 'expected.json'), 'utf8');
    list = (JSON.parse(text) as { files: Expected[] }).files;
  } catch {
    list = [];
  }
  return list;
}

/** Why a sample cannot be used here, or null. */
export const sampleMissing = (file: string): string | null =>
  fs.existsSync(path.join(SAMPLES, file)) ? null : `sample ${file} is not here`;

export function expectationOf(file: string): Expected {
  const found = expectations().find(entry => entry.file === file);
  if (found === undefined) throw new Error(`no expectation for ${file}`);
  return found;
}

const WRAPS = /\.(gz|bz2|zst)$/;

function unwrap(file: string): Uint8Array {
  switch (path.extname(file)) {
    case '.gz':
      return zlib.gunzipSync(fs.readFileSync(file));
    case '.zst':
      return zlib.zstdDecompressSync(fs.readFileSync(file));
    case '.bz2':
      return execFileSync('bzip2', ['-dc', file], { maxBuffer: 2 ** 30 });
    default:
      return fs.readFileSync(file);
  }
}

/** Puts a sample into `folder` under its plain name, and gives that name. */
export function unpackSample(file: string, folder: string): string {
  const name = path.basename(file).replace(WRAPS, '');
  const content = unwrap(path.join(SAMPLES, file));
  const fd = fs.openSync(path.join(folder, name), 'wx');
  // Holes stay holes: some samples are mostly zeros.
  for (let at = 0; at < content.length; at += 65536) {
    const part = content.subarray(at, at + 65536);
    if (!isZero(part)) fs.writeSync(fd, part, 0, part.length, at);
  }
  fs.ftruncateSync(fd, content.length);
  fs.closeSync(fd);
  return name;
}

/** A new folder for a test's files; the caller removes it. */
export const scratch = (): string => fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-kit-'));

export interface Ends {
  readonly file: string;
  readonly format: string;
  readonly head: Uint8Array;
  readonly tail: Uint8Array;
}

const END = 65_536;
/** Samples that unpack to more are left out of the probe matrix: unpacking them takes longer than it tells. */
const MAX_UNPACKED = 16 * 1_048_576;

/** First and last bytes of every sample image, as a probe sees them. */
export function* sampleEnds(): Iterable<Ends> {
  for (const { file, format, wrap, unpacked_bytes: unpacked } of expectations()) {
    if (wrap !== null && (!['gz', 'bz2', 'zst'].includes(wrap) || (unpacked ?? 0) > MAX_UNPACKED)) continue;
    if (wrap === null && !fs.statSync(path.join(SAMPLES, file)).isFile()) continue;
    const content = unwrap(path.join(SAMPLES, file));
    yield { file, format, head: content.subarray(0, END), tail: content.subarray(-END) };
  }
}

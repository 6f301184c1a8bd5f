/** What is done to files: fields, spans, texts and lengths, at the places that the parser looks at. */
import type { Bytes } from '../../src/base/contracts.ts';
import type { Random } from '../kit/random.ts';
import { type DamagedFile, DamagedFiles } from './damage.ts';
import type { Structure } from './structures.ts';
import type { FuzzTarget, Seed } from './target.ts';

/** What parsers trip over: nothing, one, and the borders of every width. */
const SPECIAL = [
  ...[0n, 1n, 2n, 0x7fn, 0x80n, 0xffn, 0x7fffn, 0xffffn, 2n ** 31n - 1n, 2n ** 31n],
  ...[2n ** 32n - 2n, 2n ** 32n - 1n, 2n ** 32n, 2n ** 40n, 2n ** 53n - 1n, 2n ** 53n, 2n ** 62n, 2n ** 63n],
  2n ** 64n - 1n,
];

/** What takes the place of a word in a text. */
const WORDS = [
  ...['0', '-1', '1e308', '99999999999999999999', '18446744073709551615', '4294967296', '007', 'NaN', 'null', ''],
  ...['../../etc/passwd', '/etc/passwd', 'json:{}', 'nbd://localhost', '//host/share', 'C:\\x', '\u0000', '%s%n'],
  ...['"', '<', '&lt;&#0;', '{', '[[[[[[[[', '}', '\n', '\\u0000', '__proto__', 'A'.repeat(300)],
];

type Write = (file: DamagedFile, at: Bytes, numbers: Random) => void;

function readNumber(file: DamagedFile, at: Bytes, width: number, little: boolean): bigint {
  let value = 0n;
  const bytes = file.read(at, width);
  for (const byte of little ? bytes.toReversed() : bytes) value = value * 256n + BigInt(byte);
  return value;
}

function writeNumber(file: DamagedFile, at: Bytes, width: number, little: boolean, value: bigint): void {
  const view = new DataView(new ArrayBuffer(8));
  view.setBigUint64(0, BigInt.asUintN(width * 8, value), little);
  file.write(at, new Uint8Array(view.buffer, little ? 0 : 8 - width, width));
}

const aligned = (at: Bytes, width: number): Bytes => at - (at % width);

const flipBit: Write = (file, at, { below }) =>
  file.write(at, Uint8Array.of((file.read(at, 1)[0] ?? 0) ^ (1 << below(8))));

const special: Write = (file, at, { below, pick }) => {
  const width = pick([1, 2, 4, 8]);
  writeNumber(file, below(4) === 0 ? at : aligned(at, width), width, below(2) === 0, pick(SPECIAL));
};

/** A neighbour of what is there, or a number that has to do with the file's length. */
const related: Write = (file, at, { below, pick }) => {
  const width = pick([1, 2, 4, 4, 8, 8]);
  const little = below(2) === 0;
  const place = aligned(at, width);
  const now = readNumber(file, place, width, little);
  const size = BigInt(file.size);
  const near = pick([now, now, now * 2n, now / 2n, ~now, size, size / 512n, size / 65_536n]);
  writeNumber(file, place, width, little, near + pick([-512n, -1n, 0n, 1n, 1n, 512n, 65_536n]));
};

const copySpan: Write = (file, at, { below, pick }) => {
  const length = pick([4, 8, 16, 64, 512]);
  file.write(at, file.read(below(Math.max(1, file.size - length)), length));
};

const fillSpan: Write = (file, at, { below, pick }) =>
  file.write(at, new Uint8Array(1 + below(pick([8, 64, 512]))).fill(pick([0, 0, 0xff, 0x41])));

const isText = (byte: number | undefined): boolean =>
  byte !== undefined && ((byte >= 0x20 && byte < 0x7f) || byte === 10 || byte === 13 || byte === 9);
const TEXT_REACH = 4096;

/** Puts another word for one near `at`; what follows in the same run of text moves. false: there is no text. */
function replaceWord(file: DamagedFile, at: Bytes, { below, pick }: Random): boolean {
  const start = Math.max(0, at - 64);
  const near = file.read(start, TEXT_REACH);
  let from = at - start;
  if (!isText(near[from]) || !isText(near[from + 1])) return false;
  while (from > 0 && isText(near[from - 1])) from--;
  let end = from;
  while (isText(near[end])) end++;
  const text = Buffer.from(near.subarray(from, end)).toString('latin1');
  const words = [...text.matchAll(/[A-Za-z]+|\d+|[^A-Za-z\d\s]/g)];
  if (words.length === 0) return false;
  const word = words[below(words.length)]!;
  const instead = below(3) === 0 ? words[below(words.length)]![0] : pick(WORDS);
  const changed = Buffer.from(text.slice(0, word.index) + instead + text.slice(word.index + word[0].length));
  file.write(start + from, changed);
  const isWhole = start + end === file.size;
  if (isWhole) file.size = start + from + changed.length;
  else if (changed.length < text.length)
    file.write(start + from + changed.length, Buffer.alloc(text.length - changed.length));
  return true;
}

const WRITES: readonly Write[] = [flipBit, special, special, related, related, copySpan, fillSpan];

/** A place in one of the structures, near bytes that are not zero more often than not. */
function placeIn({ at, length, words }: Structure, { below }: Random): Bytes {
  if (words.length > 0 && below(4) > 0) return words[below(words.length)]! + below(4);
  return at + below(length);
}

function resize(files: DamagedFiles, { below, pick }: Random): void {
  const name = pick(files.names);
  const file = files.file(name)!;
  const kind = below(8);
  if (kind === 0 && files.names.length > 1) files.remove(name);
  else if (kind === 1) file.size += pick([1, 511, 512, 4096, 65_536]);
  else if (kind === 2) file.size = Math.max(0, file.size - pick([1, 8, 511, 512, 1024, 4096]));
  else file.size = below(file.size + 1);
}

/** One damaged copy of the seed's files. `structures`: what the parser reads of them when they are sound. */
export function mutate(
  seed: Seed,
  structures: readonly Structure[],
  numbers: Random,
  repair?: FuzzTarget['repair'],
): DamagedFiles {
  const files = new DamagedFiles(seed.files);
  const { below, pick } = numbers;
  for (let n = pick([1, 1, 1, 2, 2, 3, 5]); n > 0; n--) {
    const structure = pick(structures);
    const file = files.file(structure.file)!;
    const at = placeIn(structure, numbers);
    if (below(3) > 0 && replaceWord(file, at, numbers)) continue;
    pick(WRITES)(file, at, numbers);
  }
  if (repair !== undefined && below(8) > 0) repair(files);
  if (below(12) === 0) resize(files, numbers);
  return files;
}

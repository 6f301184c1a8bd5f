/** One name in a hashed folder: kernel documentation, "Hash Tree Directories"; the hashes are half of MD4, and TEA. */
import type { Ext, ExtInode } from './filesystem.ts';

/** Hash versions as a folder stores them. */
const LEGACY = 0;
const HALF_MD4 = 1;
const TEA = 2;
const SUPERBLOCK_UNSIGNED = 2;
const ROOT_HEADER = 0x18;
const NODE_HEADER = 8;
const DEEPEST = 4;
const MD4_START = [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476] as const;
/** The highest hash, which marks the end. */
const END = 0xffff_fffe;

const rotate = (value: number, by: number): number => (value << by) | (value >>> (32 - by));

/** Packs a part of a name into words, filled up with its length. */
function packed(name: Uint8Array, from: number, words: number, signed: boolean): Int32Array {
  const left = name.length - from;
  const fill = (left | (left << 8)) & 0xffff;
  const pad = fill | (fill << 16);
  const out = new Int32Array(words).fill(pad);
  const used = Math.min(left, words * 4);
  for (let i = 0, value = pad; i < used; i++) {
    const byte = name[from + i]!;
    value = ((signed && byte >= 0x80 ? byte - 256 : byte) + (value << 8)) | 0;
    out[i >> 2] = value;
    if (i % 4 === 3) value = pad;
  }
  return out;
}

type Mix = (b: number, c: number, d: number) => number;
const ROUNDS: readonly (readonly [mix: Mix, constant: number, shifts: readonly number[], order: readonly number[]])[] =
  [
    [(b, c, d) => d ^ (b & (c ^ d)), 0, [3, 7, 11, 19], [0, 1, 2, 3, 4, 5, 6, 7]],
    [(b, c, d) => ((b & c) + ((b ^ c) & d)) | 0, 0x5a827999, [3, 5, 9, 13], [1, 3, 5, 7, 0, 2, 4, 6]],
    [(b, c, d) => b ^ c ^ d, 0x6ed9eba1, [3, 9, 11, 15], [3, 7, 2, 6, 1, 5, 0, 4]],
  ];

function halfMd4(state: Int32Array, input: Int32Array): void {
  let [a, b, c, d] = state as unknown as [number, number, number, number];
  for (const [mix, constant, shifts, order] of ROUNDS) {
    for (const [i, word] of order.entries()) {
      const next = rotate((a + mix(b, c, d) + input[word]! + constant) | 0, shifts[i % 4]!);
      [a, b, c, d] = [d, next, b, c];
    }
  }
  for (const [i, value] of [a, b, c, d].entries()) state[i] = state[i]! + value;
}

function tea(state: Int32Array, [a, b, c, d]: Int32Array): void {
  let [x, y] = [state[0]!, state[1]!];
  for (let n = 0, sum = 0; n < 16; n++) {
    sum = (sum + 0x9e3779b9) | 0;
    x = (x + (((y << 4) + a!) ^ (y + sum) ^ ((y >>> 5) + b!))) | 0;
    y = (y + (((x << 4) + c!) ^ (x + sum) ^ ((x >>> 5) + d!))) | 0;
  }
  state[0] = state[0]! + x;
  state[1] = state[1]! + y;
}

function legacy(name: Uint8Array, signed: boolean): number {
  let [before, hash] = [0x37abe8f9, 0x12a3fe2d];
  for (const byte of name) {
    let next = (before + (hash ^ Math.imul(signed && byte >= 0x80 ? byte - 256 : byte, 7152373))) >>> 0;
    if (next >= 0x8000_0000) next = (next - 0x7fff_ffff) >>> 0;
    [before, hash] = [hash, next];
  }
  return (hash << 1) >>> 0;
}

/** null: a version that is not known. */
export function nameHash(name: Uint8Array, version: number, signed: boolean, seed: readonly number[]): number | null {
  const state = Int32Array.from(seed.some(word => word !== 0) ? seed : MD4_START);
  let hash: number;
  if (version === LEGACY) hash = legacy(name, signed);
  else if (version === HALF_MD4) {
    for (let at = 0; at < name.length; at += 32) halfMd4(state, packed(name, at, 8, signed));
    hash = state[1]! >>> 0;
  } else if (version === TEA) {
    for (let at = 0; at < name.length; at += 16) tea(state, packed(name, at, 4, signed));
    hash = state[0]! >>> 0;
  } else return null;
  const even = hash - (hash % 2);
  return even === END ? END - 2 : even;
}

/**
 * Blocks of the folder in which an entry of that name can be: more than one where hashes are the same. null: the index
 * is of a kind that is not known. `block` reads a block of the folder.
 */
export async function blocksFor(
  ext: Ext,
  inode: ExtInode,
  name: Uint8Array,
  block: (index: number) => Promise<Buffer>,
): Promise<readonly number[] | null> {
  const { source, superblock } = ext;
  const root = await block(0);
  const signed = (superblock.flags & SUPERBLOCK_UNSIGNED) === 0;
  const hash = nameHash(name, root[0x1c]!, signed, superblock.hashSeed);
  if (hash === null) return null;
  const levels = root[0x1e]!;
  const what = `the index of folder ${inode.number} is damaged`;
  source.check(levels <= DEEPEST && root[0x1d]! >= 8, what);
  const found: number[] = [];
  const seen = new Set<number>();
  const search = async (node: Buffer, at: number, level: number): Promise<void> => {
    const count = node.readUInt16LE(at + 2);
    source.check(count > 0 && at + count * 8 <= node.length, what);
    const key = (i: number): number => (i === 0 ? 0 : node.readUInt32LE(at + i * 8));
    let first = 0;
    for (let high = count - 1; first < high; ) {
      const middle = first + Math.ceil((high - first) / 2);
      if (key(middle) <= hash) first = middle;
      else high = middle - 1;
    }
    // The lowest bit says that names of the hash before go on in this block.
    for (let i = first; i < count && (i === first || key(i) === hash + 1); i++) {
      const child = node.readUInt32LE(at + i * 8 + 4) % 2 ** 28;
      source.check(!seen.has(child), what);
      seen.add(child);
      if (level === 0) found.push(child);
      else await search(await block(child), NODE_HEADER, level - 1);
    }
  };
  await search(root, ROOT_HEADER + root[0x1d]!, levels);
  return found;
}

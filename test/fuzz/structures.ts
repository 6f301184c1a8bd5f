/** Where a seed's metadata lies: what the parser itself reads of it. */
import type { Bytes } from '../../src/base/contracts.ts';
import { random } from '../kit/random.ts';
import { DamagedFiles, damagedStore, watch } from './damage.ts';
import type { FuzzTarget, Seed } from './target.ts';

/** One stretch that was read at once. */
export interface Structure {
  readonly file: string;
  readonly at: Bytes;
  readonly length: Bytes;
  /** Offsets of the words of four bytes that are not zero, not all of many. */
  readonly words: Uint32Array;
}

const MOST = 2000;
const WORDS = 4096;
const ROUNDS = 24;

function wordsOf(image: Uint8Array, from: Bytes, length: Bytes): Uint32Array {
  const found: number[] = [];
  const first = from - (from % 4);
  const step = 4 * Math.max(1, Math.floor(length / 4 / (8 * WORDS)));
  for (let at = first; at < from + length && found.length < WORDS; at += step)
    if ((image[at]! | (image[at + 1] ?? 0) | (image[at + 2] ?? 0) | (image[at + 3] ?? 0)) !== 0) found.push(at);
  return Uint32Array.from(found);
}

/**
 * Runs the parser over the sound files a few times and notes what it reads. What is read again and again (headers and
 * tables, unlike the disk's data) stands in the list as often. Throws when nothing of the seed is read.
 */
export async function structuresOf(target: FuzzTarget, seed: Seed): Promise<readonly Structure[]> {
  const found = new Map<string, Structure>();
  const list: Structure[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const seen = watch();
    seen.onRead = (file, at, length) => {
      const key = `${file}\0${at}\0${length}`;
      if (length === 0 || (!found.has(key) && found.size >= MOST)) return;
      const structure = found.get(key) ?? { file, at, length, words: wordsOf(seed.files[file]!, at, length) };
      found.set(key, structure);
      list.push(structure);
    };
    await target.exercise(damagedStore(new DamagedFiles(seed.files), seen), seed.name, random(round));
  }
  if (list.length === 0) throw new Error(`${seed.title}: nothing of it is read`);
  return list;
}

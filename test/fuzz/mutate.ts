/** Damaged copies of an image that cost nothing: the original bytes, and over them a few patches and another length. */
import type { Bytes, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import type { Random } from '../kit/random.ts';

export interface Patch {
  readonly at: Bytes;
  readonly bytes: Uint8Array;
}

export interface Mutation {
  readonly patches: readonly Patch[];
  readonly size: Bytes;
}

/** What parsers trip over: nothing, one, and the borders of every width. */
const SPECIAL = [
  0n,
  1n,
  2n,
  0x7fn,
  0xffn,
  0x7fffn,
  0xffffn,
  2n ** 31n - 1n,
  2n ** 31n,
  2n ** 32n - 2n,
  2n ** 32n - 1n,
  2n ** 32n,
  2n ** 40n,
  2n ** 53n,
  2n ** 62n,
  2n ** 63n,
  2n ** 64n - 1n,
];

function number(random: Random, width: 2 | 4 | 8): Uint8Array {
  const bytes = new Uint8Array(8);
  const view = new DataView(bytes.buffer);
  const value = BigInt.asUintN(width * 8, random.pick(SPECIAL));
  if (random.below(2) === 0) {
    view.setBigUint64(0, value, true);
    return bytes.subarray(0, width);
  }
  view.setBigUint64(0, value, false);
  return bytes.subarray(8 - width);
}

/** `interesting`: offsets that hold metadata; most patches go there. */
export function mutate(image: Uint8Array, interesting: Uint32Array, random: Random): Mutation {
  const patches: Patch[] = [];
  for (let n = 1 + random.below(3); n > 0; n--) {
    const near = random.below(8) > 0 ? interesting[random.below(interesting.length)]! : random.below(image.length);
    const kind = random.below(5);
    if (kind === 0) patches.push({ at: near, bytes: Uint8Array.of(image[near]! ^ (1 << random.below(8))) });
    else if (kind === 4) {
      const from = random.below(image.length);
      patches.push({ at: near, bytes: image.subarray(from, from + 1 + random.below(64)) });
    } else {
      const width = ([2, 4, 8] as const)[kind - 1]!;
      patches.push({ at: near - (near % width), bytes: number(random, width) });
    }
  }
  const size = random.below(12) === 0 ? random.below(image.length + 1) : image.length;
  return { patches, size };
}

/** A store with that one file. Nothing else can be opened, and every attempt to is reported to `reached`. */
export function mutatedStore(
  name: string,
  image: Uint8Array,
  { patches, size }: Mutation,
  reached: (name: string) => void,
): Store {
  const read = (into: Uint8Array, at: Bytes): void => {
    if (!Number.isSafeInteger(at) || at < 0 || at + into.length > size) {
      throw new ImageError('corrupt', `the file ends early: ${size} bytes`, { file: name, at });
    }
    into.set(image.subarray(at, at + into.length));
    for (const patch of patches) {
      const from = Math.max(at, patch.at);
      const to = Math.min(at + into.length, patch.at + patch.bytes.length);
      if (from < to) into.set(patch.bytes.subarray(from - patch.at, to - patch.at), from - at);
    }
  };
  return {
    label: 'fuzz',
    async *list() {
      yield { name, size, modified: new Date(0) };
    },
    async open(wanted) {
      if (wanted !== name) {
        reached(wanted);
        throw new ImageError('not-found', 'no such file in the repository', { file: wanted });
      }
      return { name, size, read, async [Symbol.asyncDispose]() {} };
    },
    async [Symbol.asyncDispose]() {},
  };
}

/** The decoders of compressed streams that are the project's own: what comes out is read as far as a limit. */
import { execFileSync } from 'node:child_process';
import { PACKINGS, type Packing } from '../../../src/base/packing/packing.ts';
import { type FuzzTarget, orImageError, type Seed, seedContent } from '../target.ts';

const MOST = 8 * 1_048_576;
const MADE: readonly (readonly [keyof typeof PACKINGS, string, readonly string[]])[] = [
  ['zst', 'zstd', ['-q', '-1', '--check']],
  ['lz4', 'lz4', ['-q', '-B4', '-BD', '-BX']],
  ['lzo', 'lzop', ['-1']],
  ['gz', 'gzip', ['-1']],
];

async function seeds(): Promise<readonly Seed[]> {
  const input = seedContent(400_000);
  return MADE.map(([ending, program, args]) => ({
    title: ending,
    name: `a.${ending}`,
    files: { [`a.${ending}`]: execFileSync(program, [...args], { input }) },
  }));
}

export const target: FuzzTarget = {
  needs: ['zstd', 'lz4', 'lzop', 'gzip'],
  seeds,
  exercise: (store, name) =>
    orImageError(async () => {
      await using source = await store.open(name);
      const packing: Packing = PACKINGS[name.split('.').at(-1) as keyof typeof PACKINGS];
      let length = 0;
      for await (const part of packing.content(source)) {
        length += part.length;
        if (length > MOST) break;
      }
    }),
};

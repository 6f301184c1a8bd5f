import type { Adapter } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { UnitCache } from '../../src/chain/cache.ts';
import { chainDisk } from '../../src/chain/disk.ts';
import type { Random } from '../kit/random.ts';
import { type Mutation, mutatedStore } from './mutate.ts';
import { KEYS, type Seed } from './seeds.ts';

const SLOW_MS = 1000;
const MEMORY = 64 * 2 ** 20;
const READS = 6;

/** Opens and reads; null when all went as it should, else what did not. */
export async function tryCase(
  adapter: Adapter,
  seed: Seed,
  mutation: Mutation,
  numbers: Random,
  slow = SLOW_MS,
): Promise<string | null> {
  const outside: string[] = [];
  const reached = (name: string): void => {
    if (name.startsWith('/') || name.split('/').includes('..')) outside.push(name);
  };
  const began = performance.now();
  const before = process.memoryUsage().arrayBuffers;
  let wrong: string | null = null;
  try {
    const store = mutatedStore(seed.name, seed.image, mutation, reached);
    await using image = await adapter.open(seed.name, store, KEYS);
    for (const point of image.points) {
      for (const { layer, sectorSize } of point.disks) {
        if (layer === null || layer.size === 0) continue;
        const disk = chainDisk({ layers: [layer], id: 'fuzz', sectorSize, cache: new UnitCache(2 ** 20) });
        for (let n = 0; n < READS; n++) {
          const at = n === 0 ? 0 : numbers.below(Math.min(disk.size, seed.image.length * 2));
          await Promise.resolve(disk.read(new Uint8Array(Math.min(20_000, disk.size - at)), at)).catch(error => {
            if (!(error instanceof ImageError)) throw error;
          });
        }
      }
    }
  } catch (error) {
    if (!(error instanceof ImageError)) wrong = error instanceof Error ? (error.stack ?? error.message) : String(error);
  }
  const took = performance.now() - began;
  if (outside.length > 0) return `reached for ${outside[0]}`;
  if (wrong !== null) return wrong;
  if (took > slow) return `took ${took.toFixed(0)} ms`;
  const more = process.memoryUsage().arrayBuffers - before;
  return more > MEMORY ? `held ${more} bytes` : null;
}

/** What is fuzzed: a parser, and sound files for it that are then damaged. */
import type { Adapter, Bytes, Disk, Image, Keyring, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { UnitCache } from '../../src/chain/cache.ts';
import { chainDisk } from '../../src/chain/disk.ts';
import type { Random } from '../kit/random.ts';
import type { DamagedFiles, Files } from './damage.ts';

export interface Seed {
  readonly title: string;
  /** The file to open; the others lie beside it. */
  readonly name: string;
  readonly files: Files;
}

export interface FuzzTarget {
  /** Programs that make the seeds. */
  readonly needs: readonly string[];
  seeds(): Promise<readonly Seed[]>;
  /** Makes checksums right again, so that the damage reaches what lies behind them. Runs for most cases. */
  readonly repair?: (files: DamagedFiles) => void;
  /**
   * Opens what `name` is and reads of it. An ImageError may end it. On sound files it reads everything that a parser
   * looks at: the places where damage goes are taken from that.
   */
  exercise(store: Store, name: string, numbers: Random): Promise<void>;
}

export const SECRET = new TextEncoder().encode('fuzz');
export const KEYS: Keyring = { secrets: async () => [SECRET] };

/** Errors of the image are what is expected; all others go on. */
export async function orImageError(work: () => unknown): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
  }
}

const READ = new Uint8Array(12_288);
const POINTS = 6;
const DISKS = 3;
/** Verifying a disk that claims to be huge takes as long as it is huge: it is told to stop after so many steps. */
const VERIFY_STEPS = 200;

/** Reads the first bytes, the last ones, and a few between. */
export async function readSome(disk: Disk, numbers: Random): Promise<void> {
  const length = Math.min(READ.length, disk.size);
  const near = Math.min(disk.size, 2 ** 23);
  for (const at of [0, numbers.below(near - Math.min(near, length) + 1), disk.size - length])
    await orImageError(() => disk.read(READ.subarray(0, length), at));
  if (numbers.below(4) === 0) {
    const at = numbers.below(disk.size);
    await orImageError(async () => {
      if (disk.extent(at, disk.size - at) === null) await disk.load(at, disk.size - at);
      disk.extent(at, disk.size - at);
    });
  }
}

async function verifySome(image: Image, level: 1 | 2 | 3): Promise<void> {
  const stop = new AbortController();
  let steps = 0;
  const step = (): void => {
    if (++steps > VERIFY_STEPS) stop.abort();
  };
  try {
    await orImageError(() => image.verify?.({ level, found: step, progress: step, signal: stop.signal }));
  } catch (error) {
    if (!stop.signal.aborted || error !== stop.signal.reason) throw error;
  }
}

async function probe(adapter: Adapter, store: Store, name: string): Promise<void> {
  await using source = await store.open(name);
  const length = Math.min(source.size, 65_536);
  const [head, tail] = [new Uint8Array(length), new Uint8Array(length)];
  await source.read(head, 0);
  await source.read(tail, source.size - length);
  adapter.probe(head, tail, name);
}

/** Opens, reads every disk of the first points, and now and then probes and verifies. */
export async function exerciseAdapter(
  adapter: Adapter,
  store: Store,
  name: string,
  numbers: Random,
  keys = KEYS,
): Promise<void> {
  if (numbers.below(8) === 0) await orImageError(() => probe(adapter, store, name));
  await orImageError(async () => {
    await using image = await adapter.open(name, store, keys);
    for (const point of image.points.slice(0, POINTS)) {
      for (const { layer, sectorSize } of point.disks.slice(0, DISKS)) {
        if (layer === null || layer.size === 0) continue;
        const cache = new UnitCache(2 ** 20);
        await readSome(chainDisk({ layers: [layer], id: 'fuzz', sectorSize, cache }), numbers);
        // What is read ahead belongs to this case, and holds all of it.
        while (cache.ahead > 0) await new Promise(resolve => setImmediate(resolve));
      }
    }
    if (numbers.below(8) === 0) await verifySome(image, numbers.pick([1, 2, 3]));
  });
}

export const adapterTarget = (
  adapter: Adapter,
  needs: readonly string[],
  seeds: () => Promise<readonly Seed[]>,
  repair?: FuzzTarget['repair'],
): FuzzTarget => ({
  needs,
  seeds,
  ...(repair === undefined ? {} : { repair }),
  exercise: (store, name, numbers) => exerciseAdapter(adapter, store, name, numbers),
});

/** A disk of 1.5 MiB: plain stretches, repeated ones and zeros. */
export function seedContent(size: Bytes = 3 * 2 ** 19): Uint8Array<ArrayBuffer> {
  const disk = new Uint8Array(size);
  for (let i = 0; i < size / 4; i++) disk[i] = (i * 7 + (i >> 8)) & 255;
  disk.fill(0x42, Math.floor(size * 0.6), Math.floor(size * 0.7));
  return disk;
}

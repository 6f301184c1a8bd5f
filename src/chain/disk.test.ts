import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { ByteSource, Bytes, Layer, LayerId, Location } from '../base/contracts.ts';
import { roundDown } from '../base/range.ts';
import { UnitCache } from './cache.ts';
import { chainDisk } from './disk.ts';

const BLOCK = 4096;
type Kind = 'absent' | 'zero' | 'plain' | 'packed';

interface Made {
  readonly layer: Layer;
  readonly blocks: readonly Kind[];
  readonly unpacked: Map<number, number>;
}

const pattern = (layer: number, at: Bytes): number => (layer * 89 + at * 7 + Math.floor(at / 256)) & 255;

function fill(into: Uint8Array, layer: number, at: Bytes): void {
  for (let i = 0; i < into.length; i++) into[i] = pattern(layer, at + i);
}

/** A layer whose metadata has to be loaded block by block, and is forgotten again when `forget` says so. */
function madeLayer(number: number, blocks: readonly Kind[], size: Bytes, slow: boolean): Made {
  const resident = new Set<number>();
  const unpacked = new Map<number, number>();
  const source: ByteSource = {
    name: `layer-${number}`,
    size,
    read(into, at) {
      if (!slow) return fill(into, number, at);
      return Promise.resolve().then(() => fill(into, number, at));
    },
    async [Symbol.asyncDispose]() {},
  };
  const layer: Layer = {
    id: `layer-${number}` as LayerId,
    size,
    blockSize: BLOCK,
    locate(at, limit): Location | null {
      const block = Math.floor(at / BLOCK);
      if (!resident.has(block)) return null;
      const length = Math.min(limit, (block + 1) * BLOCK - at);
      const kind = blocks[block]!;
      if (kind === 'plain') return { kind, source, at, length };
      if (kind === 'packed') return { kind, unit: block, within: at - block * BLOCK, length };
      return { kind, length };
    },
    async load(at) {
      await Promise.resolve();
      if (resident.size > 8) resident.clear();
      resident.add(Math.floor(at / BLOCK));
      resident.add(Math.floor(at / BLOCK) + 1);
    },
    async unpack(unit, into) {
      unpacked.set(unit, (unpacked.get(unit) ?? 0) + 1);
      await Promise.resolve();
      fill(into, number, unit * BLOCK);
    },
  };
  return { layer, blocks, unpacked };
}

function expected(layers: readonly Made[], at: Bytes): number {
  for (let i = layers.length - 1; i >= 0; i--) {
    const { layer, blocks } = layers[i]!;
    if (at >= layer.size) return 0;
    const kind = blocks[Math.floor(at / BLOCK)]!;
    if (kind === 'zero') return 0;
    if (kind !== 'absent') return pattern(i, at);
  }
  return 0;
}

const kinds = fc.constantFrom<Kind>('absent', 'zero', 'plain', 'packed');
const chains = fc.array(
  fc.record({
    blocks: fc.array(kinds, { minLength: 12, maxLength: 12 }),
    cut: fc.integer({ min: 1, max: 12 * BLOCK }),
    slow: fc.boolean(),
  }),
  { minLength: 1, maxLength: 5 },
);

describe('a disk through its chain', () => {
  test('every read equals the model, whatever the layers hold and however their metadata comes and goes', async () => {
    await fc.assert(
      fc.asyncProperty(
        chains,
        fc.array(fc.tuple(fc.nat(), fc.nat()), { minLength: 4, maxLength: 12 }),
        fc.boolean(),
        async (specs, reads, passes) => {
          const layers = specs.map((spec, i) => madeLayer(i, spec.blocks, spec.cut, spec.slow));
          const disk = chainDisk({
            layers: layers.map(l => l.layer),
            id: 'test',
            sectorSize: 512,
            cache: new UnitCache(5 * BLOCK, passes),
          });
          await Promise.all(
            reads.map(async ([a, b]) => {
              const at = b % 3 === 0 ? roundDown(a % disk.size, BLOCK) : a % disk.size;
              const into = new Uint8Array(Math.min(1 + (b % (4 * BLOCK)), disk.size - at)).fill(0xdb);
              await disk.read(into, at);
              const wrong = into.findIndex((byte, i) => byte !== expected(layers, at + i));
              expect(wrong).toBe(-1);
              const place = disk.plain!(at, into.length);
              if (place === null) return;
              await place.source.read(into.fill(0xdb), place.at);
              expect(into.findIndex((byte, i) => byte !== expected(layers, at + i))).toBe(-1);
            }),
          );
        },
      ),
      { numRuns: 300 },
    );
  });

  test('says where bytes lie when they lie as they are in one place, and known without waiting', async () => {
    const upper = madeLayer(1, ['absent', 'plain', 'packed', 'zero', 'absent'], 5 * BLOCK, false);
    const lower = madeLayer(0, ['plain', 'plain', 'plain', 'plain', 'absent'], 5 * BLOCK, false);
    const layers = [lower.layer, upper.layer];
    const disk = chainDisk({ layers, id: 'test', sectorSize: 512, cache: new UnitCache(0) });
    const plain = (at: Bytes, length: Bytes): unknown => {
      const place = disk.plain!(at, length);
      return place === null ? null : [place.source.name, place.at];
    };
    expect(plain(0, BLOCK)).toBeNull();
    await disk.read(new Uint8Array(5 * BLOCK), 0);
    for (const layer of layers) await layer.load(0, BLOCK);
    expect(plain(0, BLOCK)).toEqual(['layer-0', 0]);
    expect(plain(100, 200)).toEqual(['layer-0', 100]);
    expect(plain(BLOCK, BLOCK)).toEqual(['layer-1', BLOCK]);
    expect(plain(0, BLOCK + 1)).toBeNull();
    for (const layer of layers) await layer.load(2 * BLOCK, BLOCK);
    expect(plain(2 * BLOCK, 512)).toBeNull();
    expect(plain(3 * BLOCK, 512)).toEqual(['zeros', 0]);
    for (const layer of layers) await layer.load(4 * BLOCK, BLOCK);
    expect(plain(4 * BLOCK, 512)).toEqual(['zeros', 0]);
  });

  test('an extent of a disk in very many units is answered in parts', () => {
    let asked = 0;
    const layer: Layer = {
      id: 'huge' as LayerId,
      size: 2 ** 50,
      blockSize: 512,
      locate(at, limit) {
        asked++;
        return { kind: 'packed', unit: Math.floor(at / 512), within: 0, length: Math.min(limit, 512) };
      },
      load: async () => {},
      unpack: async () => {},
    };
    const disk = chainDisk({ layers: [layer], id: 'huge', sectorSize: 512, cache: new UnitCache(2 ** 20) });
    const extent = disk.extent(0, disk.size);
    expect(extent).toEqual({ kind: 'data', length: asked * 512 });
    expect(asked).toBeLessThan(10_000);
  });

  test('extents cover the disk, and what they call zero reads as zeros', async () => {
    await fc.assert(
      fc.asyncProperty(chains, async specs => {
        const layers = specs.map((spec, i) => madeLayer(i, spec.blocks, spec.cut, spec.slow));
        const disk = chainDisk({
          layers: layers.map(l => l.layer),
          id: 'test',
          sectorSize: 512,
          cache: new UnitCache(0),
        });
        for (let at = 0; at < disk.size; ) {
          const extent = disk.extent(at, disk.size - at);
          if (extent === null) {
            await disk.load(at, disk.size - at);
            continue;
          }
          expect(extent.length).toBeGreaterThan(0);
          if (extent.kind === 'zero') {
            for (let i = 0; i < extent.length; i++) expect(expected(layers, at + i)).toBe(0);
          }
          at += extent.length;
        }
      }),
      { numRuns: 100 },
    );
  });

  test('32 readers of one packed block decode it once', async () => {
    const made = madeLayer(0, ['packed'], BLOCK, false);
    const disk = chainDisk({ layers: [made.layer], id: 'test', sectorSize: 512, cache: new UnitCache(BLOCK) });
    await Promise.all(Array.from({ length: 32 }, (_, i) => disk.read(new Uint8Array(100), i * 100)));
    expect(made.unpacked.get(0)).toBe(1);
  });

  test('units that are wanted whole go past a cache that says so; parts of them are kept all the same', async () => {
    const made = madeLayer(0, ['packed', 'packed'], BLOCK + 100, false);
    const cache = new UnitCache(4 * BLOCK, true);
    const disk = chainDisk({ layers: [made.layer], id: 'test', sectorSize: 512, cache });
    const into = new Uint8Array(BLOCK + 100);
    for (let n = 0; n < 3; n++) {
      await disk.read(into.fill(0), 0);
      expect(into.findIndex((byte, i) => byte !== pattern(0, i))).toBe(-1);
    }
    expect([made.unpacked.get(0), made.unpacked.get(1)]).toEqual([3, 1]);
    expect(cache.held).toBe(BLOCK);
    for (let n = 0; n < 3; n++) await disk.read(into.subarray(0, 100), 50);
    expect(made.unpacked.get(0)).toBe(4);
  });

  test('an error waits for the parts that are still on their way into the buffer', async () => {
    const good = madeLayer(0, ['packed', 'packed'], 2 * BLOCK, false);
    let release = (): void => {};
    const gate = new Promise<void>(resolve => {
      release = resolve;
    });
    let finished = false;
    const layer: Layer = {
      ...good.layer,
      async unpack(unit, into) {
        if (unit === 1) throw new Error('damaged');
        await gate;
        finished = true;
        into.fill(1);
      },
    };
    const disk = chainDisk({ layers: [layer], id: 'test', sectorSize: 512, cache: new UnitCache(0) });
    const read = Promise.resolve(disk.read(new Uint8Array(2 * BLOCK), 0)).then(
      () => 'read',
      () => (finished ? 'failed after the rest' : 'failed early'),
    );
    setTimeout(release, 20);
    expect(await read).toBe('failed after the rest');
  });

  test('an answer that fails at once, after a part that is still under way, is one error and no second one', async () => {
    const good = madeLayer(0, ['packed', 'plain'], 2 * BLOCK, false);
    let ended = false;
    const layer: Layer = {
      ...good.layer,
      locate: (at, limit) => {
        if (at >= BLOCK) throw new Error('a bad entry');
        return { kind: 'packed', unit: 0, within: at, length: Math.min(limit, BLOCK - at) };
      },
      async unpack() {
        await new Promise(resolve => setTimeout(resolve, 10));
        ended = true;
        throw new Error('damaged');
      },
    };
    const disk = chainDisk({ layers: [layer], id: 'test', sectorSize: 512, cache: new UnitCache(0) });
    const unhandled: unknown[] = [];
    const note = (error: unknown): void => void unhandled.push(error);
    process.on('unhandledRejection', note);
    await expect(async () => disk.read(new Uint8Array(2 * BLOCK), 0)).rejects.toThrow();
    expect(ended).toBe(true);
    await new Promise(resolve => setTimeout(resolve, 20));
    process.off('unhandledRejection', note);
    expect(unhandled).toEqual([]);
  });

  test('a layer sees no read once the index knows that it does not answer', async () => {
    let asked = 0;
    const base = madeLayer(0, Array<Kind>(12).fill('plain'), 12 * BLOCK, false);
    const middle: Layer = {
      ...base.layer,
      locate: (_, limit) => {
        asked++;
        return { kind: 'absent', length: limit };
      },
    };
    const disk = chainDisk({ layers: [base.layer, middle], id: 'test', sectorSize: 512, cache: new UnitCache(0) });
    await disk.read(new Uint8Array(BLOCK), 0);
    const first = asked;
    for (let i = 0; i < 100; i++) await disk.read(new Uint8Array(BLOCK), (i % 12) * BLOCK);
    expect(asked).toBe(first);
  });
});

test('a chain of 4,096 layers that are all absent but the base', async () => {
  const base = madeLayer(0, Array<Kind>(12).fill('plain'), 12 * BLOCK, false);
  const absent: Layer = { ...base.layer, locate: (_, limit) => ({ kind: 'absent', length: limit }) };
  const layers = [base.layer, ...Array<Layer>(4095).fill(absent)];
  const disk = chainDisk({ layers, id: 'deep', sectorSize: 512, cache: new UnitCache(0) });
  const into = new Uint8Array(BLOCK);
  await disk.read(into, BLOCK);
  expect(into[5]).toBe(pattern(0, BLOCK + 5));
});

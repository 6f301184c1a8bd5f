import { describe, expect, test } from 'vitest';
import { assembleDisk, type DiskPart, memorySource, type Volume } from './assemble.ts';
import type { Layer, LayerId } from './contracts.ts';

/** A volume whose unit `n` is filled with `seed + n`; unit 1 is zeros. Its table is there after the first load. */
function volume(blockSize: number, units: number, seed: number): Volume {
  let loaded = false;
  return {
    blockSize,
    units,
    locate(at, limit) {
      if (!loaded) return null;
      const unit = Math.floor(at / blockSize);
      const length = Math.min(limit, blockSize - (at % blockSize));
      return unit === 1 ? { kind: 'zero', length } : { kind: 'packed', unit, within: at % blockSize, length };
    },
    async load() {
      loaded = true;
    },
    async unpack(unit, into) {
      expect(into.length).toBe(blockSize);
      into.fill(seed + unit);
    },
  };
}

const disk = (parts: readonly DiskPart[], size = 32_768): Layer => assembleDisk({ id: 'x' as LayerId, size, parts });

async function whole(layer: Layer): Promise<Uint8Array> {
  const out = new Uint8Array(layer.size).fill(0xcc);
  for (let at = 0; at < layer.size; ) {
    const found = layer.locate(at, layer.size - at);
    if (found === null) {
      await layer.load(at, layer.size - at);
      continue;
    }
    expect(found.length).toBeGreaterThan(0);
    const part = out.subarray(at, at + found.length);
    if (found.kind === 'plain') await found.source.read(part, found.at);
    else if (found.kind === 'packed') {
      const unit = new Uint8Array(layer.blockSize);
      await layer.unpack(found.unit, unit);
      part.set(unit.subarray(found.within, found.within + part.length));
    } else part.fill(0);
    at += found.length;
  }
  return out;
}

describe('a disk of parts', () => {
  test('volumes of different block sizes, bytes over and under them, gaps', async () => {
    const layer = disk([
      { at: 0, bytes: new Uint8Array(1500).fill(0xee), name: 'boot track' },
      { at: 1000, length: 6000, volume: volume(2048, 3, 10) },
      { at: 10_000, length: 16_384, volume: volume(8192, 2, 50) },
      { at: 26_000, bytes: new Uint8Array(100).fill(0xdd), name: 'table' },
    ]);
    const want = new Uint8Array(32_768);
    want.fill(0xee, 0, 1000);
    want.fill(10, 1000, 3048);
    want.fill(12, 5096, 7000);
    want.fill(50, 10_000, 18_192);
    want.fill(0xdd, 26_000, 26_100);
    expect(layer.blockSize).toBe(8192);
    expect(Buffer.compare(await whole(layer), want)).toBe(0);
  });

  test('parts are cut at the ends of the disk, and one inside another leaves both of its sides', async () => {
    const layer = disk(
      [
        { at: 0, bytes: new Uint8Array(90).fill(1), name: 'a' },
        { at: 30, bytes: new Uint8Array(10).fill(2), name: 'b' },
        { at: 80, bytes: new Uint8Array(100).fill(3), name: 'c' },
      ],
      100,
    );
    const want = new Uint8Array(100).fill(1).fill(2, 30, 40).fill(3, 80);
    expect([...(await whole(layer))]).toEqual([...want]);
  });

  test('a unit that no volume has, and bytes that are not there, are errors', async () => {
    await expect(disk([]).unpack(0, new Uint8Array(4096))).rejects.toMatchObject({ fault: 'out-of-range' });
    expect(() => memorySource('m', new Uint8Array(4)).read(new Uint8Array(2), 3)).toThrow('not there');
  });
});

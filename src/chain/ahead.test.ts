import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Bytes, Layer, LayerId } from '../base/contracts.ts';
import { UnitCache } from './cache.ts';
import { chainDisk } from './disk.ts';

const UNIT = 4096;

interface Made {
  readonly layer: Layer;
  /** Units in the order in which they were decoded. */
  readonly unpacked: number[];
  /** Most units that were being decoded at the same time. */
  most: number;
}

const byteAt = (at: Bytes): number => (at * 7 + Math.floor(at / UNIT) * 31) & 255;

/** `bad` units do not decode; from unit `lost` on the table is damaged. */
function packed(units: number, bad: ReadonlySet<number> = new Set(), turns = 1, lost = Infinity): Made {
  let flying = 0;
  const made: Made = {
    unpacked: [],
    most: 0,
    layer: {
      id: 'packed' as LayerId,
      size: units * UNIT,
      blockSize: UNIT,
      locate(at, limit) {
        const unit = Math.floor(at / UNIT);
        if (unit >= lost) throw new Error(`the entry of unit ${unit} is damaged`);
        const within = at - unit * UNIT;
        return { kind: 'packed', unit, within, length: Math.min(limit, UNIT - within) };
      },
      async load() {},
      async unpack(unit, into) {
        made.unpacked.push(unit);
        made.most = Math.max(made.most, ++flying);
        for (let i = 0; i < turns; i++) await turn();
        flying--;
        // A part of it is written all the same, as by a decoder that notices its damage late.
        for (let i = 0; i < (bad.has(unit) ? UNIT / 2 : UNIT); i++) into[i] = byteAt(unit * UNIT + i);
        if (bad.has(unit)) throw new Error(`unit ${unit} is damaged`);
      },
    },
  };
  return made;
}

const diskOf = (made: Made, budget: Bytes) => {
  const cache = new UnitCache(budget);
  return { cache, disk: chainDisk({ layers: [made.layer], id: 'test', sectorSize: 512, cache }) };
};

async function settled(cache: UnitCache): Promise<void> {
  for (let i = 0; i < 10_000 && cache.ahead > 0; i++) await turn();
  expect(cache.ahead).toBe(0);
}

const runs = fc.array(
  fc.record({ at: fc.nat(), length: fc.integer({ min: 1, max: 3 * UNIT }), times: fc.integer({ min: 1, max: 12 }) }),
  { minLength: 1, maxLength: 8 },
);

describe('reading ahead', () => {
  test('never serves a wrong byte, and what is damaged fails only for whoever asks for it', async () => {
    await fc.assert(
      fc.asyncProperty(
        runs,
        fc.uniqueArray(fc.nat(63), { maxLength: 6 }),
        fc.integer({ min: 0, max: 40 }),
        fc.boolean(),
        async (chosen, damaged, budgetUnits, together) => {
          const bad = new Set(damaged);
          const made = packed(64, bad, budgetUnits % 3);
          const { cache, disk } = diskOf(made, budgetUnits * UNIT);
          const one = async (at: Bytes, length: Bytes): Promise<void> => {
            const into = new Uint8Array(length);
            const units = Array.from(
              { length: Math.floor((at + length - 1) / UNIT) - Math.floor(at / UNIT) + 1 },
              (_, i) => Math.floor(at / UNIT) + i,
            );
            const failed = await Promise.resolve(disk.read(into, at)).then(
              () => false,
              () => true,
            );
            expect(failed).toBe(units.some(unit => bad.has(unit)));
            if (!failed) expect(into.findIndex((byte, i) => byte !== byteAt(at + i))).toBe(-1);
            expect(cache.held).toBeLessThanOrEqual(cache.budget);
          };
          const run = async ({ at, length, times }: { at: number; length: number; times: number }): Promise<void> => {
            let from = at % disk.size;
            for (let i = 0; i < times && from < disk.size; i++, from += length) {
              await one(from, Math.min(length, disk.size - from));
            }
          };
          if (together) await Promise.all(chosen.map(run));
          else for (const each of chosen) await run(each);
          await settled(cache);
          expect(cache.held).toBeLessThanOrEqual(cache.budget);
        },
      ),
      { numRuns: 200 },
    );
  });

  test('units longer than what is decoded at the same time are decoded two at a time', async () => {
    const unit = 4 * 2 ** 20;
    let [flying, most] = [0, 0];
    const layer: Layer = {
      id: 'long' as LayerId,
      size: 16 * unit,
      blockSize: unit,
      locate: (at, limit) => ({
        kind: 'packed',
        unit: Math.floor(at / unit),
        within: at % unit,
        length: Math.min(limit, unit - (at % unit)),
      }),
      async load() {},
      async unpack() {
        most = Math.max(most, ++flying);
        for (let i = 0; i < 20; i++) await turn();
        flying--;
      },
    };
    const cache = new UnitCache(8 * unit);
    const disk = chainDisk({ layers: [layer], id: 'test', sectorSize: 512, cache });
    const into = new Uint8Array(2 ** 20);
    for (let at = 0; at < unit; at += into.length) await disk.read(into, at);
    // What is decoded now, nobody waits for.
    most = flying;
    await settled(cache);
    expect(most).toBe(2);
  });

  test('a run finds its units decoded, each of them once', async () => {
    const made = packed(400);
    const { cache, disk } = diskOf(made, 64 * UNIT);
    for (let unit = 0; unit < 20; unit++) await disk.read(new Uint8Array(UNIT), unit * UNIT);
    await settled(cache);
    const before = made.unpacked.length;
    expect(before).toBeGreaterThan(28);
    // Not further ahead than a quarter of the cache.
    expect(Math.max(...made.unpacked)).toBeLessThan(20 + 16);
    for (let unit = 20; unit < 28; unit++) expect(disk.read(new Uint8Array(UNIT), unit * UNIT)).toBeUndefined();
    await settled(cache);
    expect(new Set(made.unpacked).size).toBe(made.unpacked.length);
  });

  test('a random load decodes what it asks for and nothing else, also when it follows a run', async () => {
    const made = packed(4096);
    const { cache, disk } = diskOf(made, 1024 * UNIT);
    for (let unit = 0; unit < 4; unit++) await disk.read(new Uint8Array(UNIT), unit * UNIT);
    await disk.read(new Uint8Array(512), 3000 * UNIT);
    await settled(cache);
    const before = made.unpacked.length;
    for (let i = 1; i <= 200; i++) await disk.read(new Uint8Array(512), ((i * 1237) % 4096) * UNIT);
    await settled(cache);
    expect(made.unpacked.length - before).toBeLessThanOrEqual(200);
  });

  test.each([8, 9, 16])('a damaged table ahead, from unit %i on, is no error of the reads before it', async lost => {
    const made = packed(64, new Set(), 2, lost);
    const { cache, disk } = diskOf(made, 64 * UNIT);
    for (let unit = 0; unit < lost; unit++) {
      const into = new Uint8Array(UNIT);
      await disk.read(into, unit * UNIT);
      expect(into[1]).toBe(byteAt(unit * UNIT + 1));
    }
    await settled(cache);
    expect(() => disk.read(new Uint8Array(UNIT), lost * UNIT)).toThrow('is damaged');
  });

  test('what is decoded at the same time is bounded', async () => {
    const made = packed(4096, new Set(), 3);
    const { cache, disk } = diskOf(made, 4096 * UNIT);
    for (let i = 0; i < 12; i++) await disk.read(new Uint8Array(64 * UNIT), i * 64 * UNIT);
    await settled(cache);
    // 2 MiB ahead, and the request itself.
    expect(made.most).toBeLessThanOrEqual(2 ** 21 / UNIT + 64);
    expect(made.most).toBeGreaterThan(64);
  });

  test('nothing is read ahead that the cache cannot keep', async () => {
    for (const budget of [0, UNIT, 3 * UNIT]) {
      const made = packed(64);
      const { cache, disk } = diskOf(made, budget);
      for (let unit = 0; unit < 32; unit++) await disk.read(new Uint8Array(UNIT), unit * UNIT);
      await settled(cache);
      expect(made.unpacked).toHaveLength(32);
    }
  });

  test('once it may not be, nothing is, also of what was due', async () => {
    const made = packed(64);
    const { cache, disk } = diskOf(made, 64 * UNIT);
    for (let unit = 0; unit < 3; unit++) await disk.read(new Uint8Array(UNIT), unit * UNIT);
    await settled(cache);
    expect(made.unpacked.length).toBeGreaterThan(3);
    const before = made.unpacked.length;
    cache.readsAhead = false;
    for (let unit = 0; unit < 64; unit++) await disk.read(new Uint8Array(UNIT), unit * UNIT);
    await settled(cache);
    expect(made.unpacked).toHaveLength(64);
    expect(made.unpacked.slice(before)).toEqual([...made.unpacked.slice(before)].sort((a, b) => a - b));
  });
});

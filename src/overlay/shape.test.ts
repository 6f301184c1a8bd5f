/** What an overlay shows, byte by byte: unaligned requests, extents, growth; and what it refuses to open. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Bytes, Disk } from '../base/contracts.ts';
import { buildMapHeader, HEADER_FILE, MAP_HEADER, parseMapHeader } from './header.ts';
import { type Overlay, type OverlayOptions, openOverlayOn } from './overlay.ts';
import { type SimulatedFiles, simulatedFiles } from './simulated-files.ts';

const BASE = 40 * 4096 + 700;
const lock = { release() {} };

/** A base with a hole, whose metadata has to be loaded first, and which answers later now and then. */
function holedDisk(size = BASE): Disk & { readonly content: Uint8Array } {
  const content = Uint8Array.from({ length: size }, (_, i) => (i % 251) + 1);
  content.fill(0, 8 * 4096, 16 * 4096);
  let loaded = false;
  let reads = 0;
  return {
    id: 'holed',
    size,
    sectorSize: 512,
    content,
    extent(at, limit) {
      if (!loaded) return null;
      if (at < 8 * 4096) return { kind: 'data', length: Math.min(limit, 8 * 4096 - at) };
      if (at < 16 * 4096) return { kind: 'zero', length: Math.min(limit, 16 * 4096 - at) };
      return { kind: 'data', length: limit };
    },
    async load() {
      loaded = true;
    },
    read(into, at) {
      expect(at + into.length).toBeLessThanOrEqual(size);
      if (reads++ % 2 === 0) return void into.set(content.subarray(at, at + into.length));
      return Promise.resolve().then(() => into.set(content.subarray(at, at + into.length)));
    },
    async [Symbol.asyncDispose]() {},
  };
}

const open = (files: SimulatedFiles, base: Disk, options: Partial<OverlayOptions> = {}): Promise<Overlay> =>
  openOverlayOn({ files, boot: 'b', lock }, base, { create: true, ...options });

/** All extents, checked to cover the disk without gaps. */
async function extentsOf(disk: Overlay): Promise<readonly { kind: string; at: Bytes; length: Bytes }[]> {
  const all = [];
  for (let at = 0; at < disk.size; ) {
    let extent = disk.extent(at, disk.size - at);
    if (extent === null) {
      await disk.load(at, disk.size - at);
      extent = disk.extent(at, disk.size - at);
    }
    expect(extent).not.toBeNull();
    expect(extent!.length).toBeGreaterThan(0);
    all.push({ kind: extent!.kind, at, length: extent!.length });
    at += extent!.length;
  }
  return all;
}

const requests = fc.array(
  fc.record({
    what: fc.constantFrom('write', 'write', 'zero', 'grow', 'reopen'),
    at: fc.nat(BASE + 9000),
    length: fc.oneof(fc.nat(700), fc.nat(3 * 4096)),
  }),
  { maxLength: 30, size: 'max' },
);

describe('an overlay, byte by byte', () => {
  it('shows what was written, zeroed and grown, at any offset, and its extents agree', async () => {
    await fc.assert(
      fc.asyncProperty(requests, async all => {
        const files = simulatedFiles();
        const base = holedDisk();
        let overlay = await open(files, base);
        let model = base.content.slice();
        for (const [i, { what, at, length }] of all.entries()) {
          const from = Math.min(at, model.length);
          const count = Math.min(length, model.length - from);
          if (what === 'write') {
            const content = new Uint8Array(count).fill(i + 1);
            await overlay.write(content, from);
            model.set(content, from);
          } else if (what === 'zero') {
            await overlay.zero(from, count);
            model.fill(0, from, from + count);
          } else if (what === 'grow' && model.length < 2 * BASE) {
            const larger = new Uint8Array(model.length + length);
            larger.set(model);
            model = larger;
            await overlay.grow(model.length);
          } else if (what === 'reopen') {
            await overlay.close();
            overlay = await open(files, base, { create: false });
          }
        }
        const found = new Uint8Array(model.length).fill(0xee);
        await overlay.read(found, 0);
        expect(Buffer.compare(found, model)).toBe(0);
        for (const { kind, at, length } of await extentsOf(overlay)) {
          if (kind === 'zero') expect(found.subarray(at, at + length).every(byte => byte === 0)).toBe(true);
        }
        expect(overlay.size).toBe(model.length);
      }),
      { numRuns: 300 },
    );
  });

  it('says what it holds itself, and what it takes up', async () => {
    const overlay = await open(simulatedFiles(), holedDisk(64 * 4096));
    await overlay.write(new Uint8Array(8192).fill(1), 4096);
    await overlay.zero(4 * 4096, 2 * 4096);
    await overlay.write(new Uint8Array(10).fill(1), 20 * 4096 + 7);
    const own = [];
    for (let at = 0; at < overlay.size; ) {
      const extent = overlay.ownExtent(at, overlay.size - at)!;
      own.push([extent.kind, extent.length / 4096]);
      at += extent.length;
    }
    expect(own).toEqual([
      ['absent', 1],
      ['data', 2],
      ['absent', 1],
      ['zero', 2],
      ['absent', 14],
      ['data', 1],
      ['absent', 43],
    ]);
    expect((await overlay.stats()).dataBytes).toBe(3 * 4096);
    await overlay.zero(4096, 4096);
    await overlay.write(new Uint8Array(4096), 30 * 4096);
    await overlay.write(new Uint8Array(4096), 31 * 4096);
    const stats = await overlay.stats();
    expect(stats.dataBytes).toBe(4 * 4096);
    expect(stats.bytesOnDisk).toBeGreaterThan(stats.dataBytes);
  });

  it('fails a read of which one part failed only when nobody fills the buffer any more', async () => {
    const base = holedDisk();
    let slowEnded = false;
    const read: Disk['read'] = (into, at) => {
      if (at >= 4096) throw new Error('no such part');
      return new Promise<void>(resolve => setTimeout(resolve, 5)).then(() => {
        slowEnded = true;
        into.fill(1);
      });
    };
    const overlay = await open(simulatedFiles(), { ...base, read });
    await overlay.zero(4096, 4096);
    await expect(async () => overlay.read(new Uint8Array(12288), 0)).rejects.toThrow('no such part');
    expect(slowEnded).toBe(true);
  });

  it('refuses what does not lie inside the disk, and everything once it is closed', async () => {
    const overlay = await open(simulatedFiles(), holedDisk());
    const outside = expect.objectContaining({ fault: 'out-of-range' });
    for (const at of [-1, BASE - 511, 2 ** 53, Number.NaN, 0.5]) {
      expect(() => overlay.write(new Uint8Array(512), at)).toThrow(outside);
      expect(() => overlay.read(new Uint8Array(512), at)).toThrow(outside);
      expect(() => overlay.zero(at, 512)).toThrow(outside);
    }
    await overlay.close();
    await overlay.close();
    expect(() => overlay.write(new Uint8Array(512), 0)).toThrow(/closed/);
    expect(() => overlay.read(new Uint8Array(512), 0)).toThrow(/closed/);
    await expect(overlay.flush()).rejects.toThrow(/closed/);
    await expect(overlay.grow(BASE * 2)).rejects.toThrow(/closed/);
  });

  it('only grows', async () => {
    const overlay = await open(simulatedFiles(), holedDisk());
    await expect(overlay.grow(BASE - 1)).rejects.toMatchObject({ fault: 'usage' });
    await Promise.all([overlay.grow(BASE * 2), overlay.grow(BASE * 3)]);
    expect(overlay.size).toBe(BASE * 3);
  });
});

describe('opening an overlay', () => {
  const made = async (): Promise<SimulatedFiles> => {
    const files = simulatedFiles();
    const overlay = await open(files, holedDisk(), { baseIdentity: 'point-1' });
    await overlay.write(new Uint8Array(4096).fill(5), 0);
    await overlay.close();
    return files;
  };
  const reopen = (files: SimulatedFiles, options: Partial<OverlayOptions> = {}): Promise<Overlay> =>
    open(files, holedDisk(), { create: false, baseIdentity: 'point-1', ...options });

  /** Puts an empty durable map without its length in place of the one that is there. */
  const shortMap = async (files: SimulatedFiles, whole: boolean): Promise<void> => {
    const head = files.readSmall('durable', MAP_HEADER)!;
    files.remove('durable');
    const header = { ...parseMapHeader(head, 'durable'), whole };
    const map = files.open('durable', 'create');
    map.write(buildMapHeader(header), 0);
    await map.sync();
    await files.syncNames();
  };

  it('gives a map of the first version its full length, in which a power loss can take none of it back', async () => {
    const files = simulatedFiles();
    await (await open(files, holedDisk())).close();
    await shortMap(files, false);
    const first = await open(files, holedDisk(), { create: false });
    await first.write(new Uint8Array(4096).fill(5), 0);
    const lost = files.afterPowerLoss(() => 0);
    const found = new Uint8Array(4096);
    await (await openOverlayOn({ files: lost, boot: 'c', lock }, holedDisk(), { create: false })).read(found, 0);
    expect(found).toEqual(holedDisk().content.subarray(0, 4096));
    await first.close();
    const second = await open(files, holedDisk(), { create: false });
    await second.read(found, 0);
    expect(found[0]).toBe(5);
  });

  it('keeps its id and its size', async () => {
    const files = simulatedFiles();
    const first = await open(files, holedDisk(), { size: BASE * 2 });
    await first.close();
    const second = await open(files, holedDisk(), { create: false });
    expect([second.id, second.size, second.sectorSize]).toEqual([first.id, BASE * 2, 512]);
  });

  it('refuses another base, by name', async () => {
    const files = await made();
    await expect(reopen(files, { baseIdentity: 'point-2' })).rejects.toMatchObject({
      fault: 'broken-chain',
      message: expect.stringMatching(/point-1.*point-2/),
    });
    await expect(open(files, holedDisk(BASE + 512), { create: false, baseIdentity: 'point-1' })).rejects.toMatchObject({
      fault: 'broken-chain',
    });
    await (await reopen(files)).close();
  });

  it('refuses to make one where one is, to open none, and sizes that cannot be', async () => {
    const files = await made();
    await expect(open(files, holedDisk())).rejects.toMatchObject({ fault: 'exists' });
    await expect(open(simulatedFiles(), holedDisk(), { create: false })).rejects.toMatchObject({ fault: 'not-found' });
    await expect(open(simulatedFiles(), holedDisk(), { size: 512 })).rejects.toMatchObject({ fault: 'usage' });
    files.remove(HEADER_FILE);
    await expect(open(files, holedDisk())).rejects.toMatchObject({ fault: 'exists' });
  });

  it('refuses a header with any byte changed, cut or added to', async () => {
    const files = await made();
    const good = files.readSmall(HEADER_FILE, 10_000)!;
    const refused = expect.objectContaining({ fault: expect.stringMatching(/corrupt|unsupported/) });
    for (let i = 0; i < good.length; i++) {
      const bad = good.slice();
      bad[i]! ^= 0x41;
      await files.replace(HEADER_FILE, bad);
      await expect(reopen(files), `byte ${i}`).rejects.toEqual(refused);
    }
    for (const bad of [good.subarray(0, 40), good.subarray(0, good.length - 1), new Uint8Array([...good, 0])]) {
      await files.replace(HEADER_FILE, bad);
      await expect(reopen(files)).rejects.toEqual(refused);
    }
    await files.replace(HEADER_FILE, good);
    await (await reopen(files)).close();
  });

  it('refuses a map with a wrong header, the map of another overlay, a state that is none, and missing data', async () => {
    const damage = async (name: string, at: Bytes, byte: number): Promise<SimulatedFiles> => {
      const files = await made();
      const file = files.open(name, 'write');
      file.write(new Uint8Array([byte]), at);
      return files;
    };
    await expect(reopen(await damage('durable', 3, 0))).rejects.toMatchObject({ fault: 'corrupt' });
    await expect(reopen(await damage('durable', 0x55, 9))).rejects.toMatchObject({ fault: 'corrupt' });
    const badState = await reopen(await damage('durable', 4096 + 2 ** 24, 0xff));
    expect(() => badState.read(new Uint8Array(512), 0)).toThrow(/no valid state \(0xff\)/);
    const short = await made();
    await shortMap(short, true);
    await expect(reopen(short)).rejects.toMatchObject({
      fault: 'corrupt',
      message: expect.stringMatching(/ends early/),
    });
    const files = await made();
    files.remove('data');
    const noData = await reopen(files);
    expect(() => noData.read(new Uint8Array(512), 0)).toThrow(/data file that is missing/);
  });
});

/** Overlays on real files: far offsets, a program that is killed, a full disk, memory. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Bytes, Disk } from '../base/contracts.ts';
import { native } from '../base/native.ts';
import { openOverlay } from './overlay.ts';
import { seeded } from './overlay-model.ts';

const HERE = import.meta.dirname;
let folder = '';

beforeEach(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'overlay-'));
});
afterEach(() => fs.rmSync(folder, { recursive: true, force: true }));

/** Every byte of the base is `fill`. */
const plainDisk = (size: Bytes, fill: number): Disk => ({
  id: `plain-${fill}`,
  size,
  sectorSize: 512,
  extent: (_at, limit) => ({ kind: 'data', length: limit }),
  load: async () => {},
  read: into => void into.fill(fill),
  async [Symbol.asyncDispose]() {},
});

const FAR = 64 * 2 ** 40;

describe('an overlay of 64 TiB', () => {
  const offsets = [0, 31, 32, 40, 43, 44, 45].flatMap(power => {
    const at = power === 0 ? 0 : 2 ** power;
    return [at - 4096, at - 512, at, at + 512, at + 4096].filter(each => each >= 0);
  });
  offsets.push(FAR - 4096, FAR - 512);

  it('opens at once and keeps what lies at far offsets, through a restart', async () => {
    const base = plainDisk(FAR, 7);
    const began = performance.now();
    const overlay = await openOverlay(folder, base, { create: true });
    expect(performance.now() - began).toBeLessThan(1000);
    const content = (i: number): Uint8Array => new Uint8Array(512).fill(100 + i);
    for (const [i, at] of offsets.entries()) await overlay.write(content(i), at);
    const check = async (disk: Disk): Promise<void> => {
      const found = new Uint8Array(512);
      for (const [i, at] of offsets.entries()) {
        await disk.read(found, at);
        expect(found, `at ${at}`).toEqual(content(i));
      }
      await disk.read(found, 2 ** 40 + 1024);
      expect(found.every(byte => byte === 7)).toBe(true);
      await disk.read(found, 2 ** 41);
      expect(found.every(byte => byte === 7)).toBe(true);
    };
    await check(overlay);
    await overlay.close();
    const again = performance.now();
    const reopened = await openOverlay(folder, base, { create: false });
    expect(performance.now() - again).toBeLessThan(1000);
    await check(reopened);
    // The data file has guest offsets: read past everything of ours.
    const fd = fs.openSync(path.join(folder, 'data'), 'r');
    const raw = new Uint8Array(512);
    fs.readSync(fd, raw, 0, 512, 2 ** 32 + 512);
    fs.closeSync(fd);
    expect(raw).toEqual(content(offsets.indexOf(2 ** 32 + 512)));
    await reopened.close();
  });

  it('is told apart from one whose offsets are cut to 32 bits', async () => {
    const cut = (at: Bytes): Bytes => at >>> 0;
    const overlay = await openOverlay(folder, plainDisk(FAR, 7), { create: true });
    for (const [i, at] of offsets.entries()) await overlay.write(new Uint8Array(512).fill(100 + i), cut(at));
    const found = new Uint8Array(512);
    let wrong = 0;
    for (const [i, at] of offsets.entries()) {
      await overlay.read(found, cut(at));
      if (found[0] !== 100 + i) wrong++;
    }
    await overlay.close();
    expect(wrong).toBeGreaterThan(0);
  });

  it('takes memory that does not grow with what is written', async () => {
    const overlay = await openOverlay(folder, plainDisk(FAR, 7), { create: true, mapCache: 2 ** 20 });
    const random = seeded(1);
    const block = new Uint8Array(4096).fill(1);
    const write = async (count: number): Promise<void> => {
      for (let i = 0; i < count; i++) await overlay.write(block, Math.floor(random() * (FAR / 4096)) * 4096);
    };
    await write(2000);
    await overlay.flush();
    const { arrayBuffers, heapUsed } = process.memoryUsage();
    const before = arrayBuffers + heapUsed;
    await write(20_000);
    await overlay.flush();
    const now = process.memoryUsage();
    expect(now.arrayBuffers + now.heapUsed - before).toBeLessThan(32 * 2 ** 20);
    await overlay.close();
  });
});

describe('a program that writes to an overlay and is killed', () => {
  /** Writes at random for ever, and says each time what has been done: the number of the write and of its block. */
  const script = (): string => `
    import fs from 'node:fs';
    import { openOverlay } from ${JSON.stringify(path.join(HERE, 'overlay.ts'))};
    const base = { id: 'plain-7', size: 2 ** 27, sectorSize: 512, extent: (_, n) => ({ kind: 'data', length: n }),
      load: async () => {}, read: async into => void into.fill(7), async [Symbol.asyncDispose]() {} };
    const folder = ${JSON.stringify(folder)};
    const overlay = await openOverlay(folder, base, { create: !fs.existsSync(folder + '/overlay') });
    const from = Number(process.argv[1]);
    for (let i = from; ; i++) {
      const sector = Math.floor(Math.random() * 2000) * 120 + Math.floor(Math.random() * 3);
      const stamp = new Uint8Array(512 * (1 + Math.floor(Math.random() * 9)));
      new Uint32Array(stamp.buffer).fill(i);
      await overlay.write(stamp, sector * 512);
      if (i % 97 === 0) void overlay.flush();
      fs.writeSync(1, i + ' ' + sector + ' ' + stamp.length / 512 + '\\n');
    }`;

  it('has lost nothing that it had acknowledged', async () => {
    const last = new Uint32Array(2 ** 27 / 512);
    let next = 1;
    for (let round = 0; round < 6; round++) {
      const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', script(), String(next)], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const exit = once(child, 'exit');
      let lines = 0;
      for await (const line of createInterface(child.stdout)) {
        const [i, sector, count] = line.split(' ').map(Number) as [number, number, number];
        last.fill(i, sector, sector + count);
        next = Math.max(next, i + 1);
        if (++lines === 300 + round * 150) child.kill('SIGKILL');
      }
      await exit;
      expect(lines).toBeGreaterThanOrEqual(300);
      await using overlay = await openOverlay(folder, plainDisk(2 ** 27, 7), { create: false });
      const found = new Uint32Array(128);
      for (const [sector, i] of last.entries()) {
        if (i === 0) continue;
        await overlay.read(new Uint8Array(found.buffer), sector * 512);
        // The write that was under way when the kill came may be there too: it has a later number.
        expect(found[0] === i || found[0]! >= next, `sector ${sector}: ${found[0]} instead of ${i}`).toBe(true);
        last[sector] = found[0]!;
        expect(found.every(word => word === found[0])).toBe(true);
      }
      next += 1000;
    }
  });
});

const mounted = ((): boolean => {
  if (process.getuid?.() !== 0) return false;
  const probe = fs.mkdtempSync(path.join(os.tmpdir(), 'mount-'));
  const ok = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', probe]).status === 0;
  if (ok) spawnSync('umount', [probe]);
  fs.rmSync(probe, { recursive: true });
  return ok;
})();

describe.skipIf(!mounted)('an overlay on a full disk (needs root, to mount a small tmpfs)', () => {
  beforeEach(() => {
    const mount = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder], { encoding: 'utf8' });
    expect(mount.status, mount.stderr).toBe(0);
  });
  afterEach(() => {
    spawnSync('umount', ['-l', folder]);
  });

  it('says so to the writer, keeps the rest, flushes, and goes on when there is space', async () => {
    const ballast = path.join(folder, 'ballast');
    fs.writeFileSync(ballast, new Uint8Array(300 * 1024));
    const base = plainDisk(2 ** 40, 7);
    const home = path.join(folder, 'clone');
    const overlay = await openOverlay(home, base, { create: true });
    const held = new Map<number, number>();
    const random = seeded(3);
    const full = expect.objectContaining({ fault: 'no-space' });
    const verify = async (): Promise<void> => {
      const found = new Uint8Array(4096);
      for (const [at, value] of held) {
        await overlay.read(found, at);
        expect(
          found.every(byte => byte === value),
          `at ${at}`,
        ).toBe(true);
      }
    };
    let refused = 0;
    for (let i = 1; refused < 40; i++) {
      const at = Math.floor(random() * 40) * 2 ** 34 + Math.floor(random() * 400) * 4096;
      const block = new Uint8Array(4096 * (1 + (i % 3))).fill(i % 256);
      try {
        await overlay.write(block, at);
        for (let j = 0; j < block.length; j += 4096) held.set(at + j, i % 256);
      } catch (error) {
        expect(error).toEqual(full);
        refused++;
        // A block that was not there before shows the base still.
        const found = new Uint8Array(4096);
        await overlay.read(found, at);
        if (!held.has(at)) expect(found.every(byte => byte === 7)).toBe(true);
        else if (found[0] !== held.get(at)) held.set(at, found[0]!);
        for (let j = 4096; j < block.length; j += 4096) {
          await overlay.read(found, at + j);
          if (held.has(at + j)) held.set(at + j, found[0]!);
        }
      }
    }
    await verify();
    // A flush needs no space, and neither does a block that is there.
    await overlay.flush();
    const [there] = held.keys();
    await overlay.write(new Uint8Array(4096).fill(9), there!);
    held.set(there!, 9);
    await overlay.flush();
    fs.rmSync(ballast);
    for (let i = 0; i < 20; i++) {
      await overlay.write(new Uint8Array(4096).fill(50 + i), 2 ** 39 + 2 ** 33 + i * 4096);
      held.set(2 ** 39 + 2 ** 33 + i * 4096, 50 + i);
    }
    await verify();
    await overlay.close();
    const again = await openOverlay(home, base, { create: false });
    const found = new Uint8Array(4096);
    for (const [at, value] of held) {
      await again.read(found, at);
      expect(found[0], `at ${at}`).toBe(value);
    }
    await again.close();
  });

  it('cannot be made where there is no room, and leaves nothing in the way', async () => {
    fs.writeFileSync(path.join(folder, 'ballast'), new Uint8Array(2 ** 20 - 8192));
    const home = path.join(folder, 'clone');
    const base = plainDisk(2 ** 30, 7);
    await expect(openOverlay(home, base, { create: true })).rejects.toMatchObject({ fault: 'no-space' });
    fs.rmSync(path.join(folder, 'ballast'));
    await (await openOverlay(home, base, { create: true })).close();
  });
});

it.skipIf(native() === null)('the space of what was discarded is given back with the next flush', async () => {
  const size = 64 * 2 ** 20;
  const overlay = await openOverlay(folder, plainDisk(size, 0xbb), { create: true });
  for (let at = 0; at < size; at += 2 ** 20) await overlay.write(new Uint8Array(2 ** 20).fill(1 + (at % 250)), at);
  await overlay.flush();
  const full = (await overlay.stats()).bytesOnDisk;
  await overlay.zero(2 ** 20, 60 * 2 ** 20);
  await overlay.write(new Uint8Array(4096).fill(9), 30 * 2 ** 20);
  await overlay.flush();
  const left = fs.statSync(path.join(folder, 'data')).blocks * 512;
  expect(full).toBeGreaterThan(60 * 2 ** 20);
  expect(left).toBeLessThan(8 * 2 ** 20);
  const got = new Uint8Array(4096);
  await overlay.read(got, 30 * 2 ** 20);
  expect(got.every(byte => byte === 9)).toBe(true);
  await overlay.read(got, 40 * 2 ** 20);
  expect(got.every(byte => byte === 0)).toBe(true);
  await overlay.close();
});

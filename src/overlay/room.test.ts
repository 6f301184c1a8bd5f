/** The last space of the file system below: refused in time, so that no flush runs out of it. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Disk } from '../base/contracts.ts';
import { bootId } from '../base/files.ts';
import { localOverlayFiles, type OverlayFiles } from './files.ts';
import { type Overlay, openOverlayOn } from './overlay.ts';
import { seeded } from './overlay-model.ts';
import { simulatedFiles } from './simulated-files.ts';

const MIB = 2 ** 20;
const lock = { release() {} };
const noSpace = expect.objectContaining({ fault: 'no-space' });

const zeros = (size: number): Disk => ({
  id: 'zeros',
  size,
  sectorSize: 512,
  extent: (_at, limit) => ({ kind: 'zero', length: limit }),
  load: async () => {},
  read: into => void into.fill(0),
  async [Symbol.asyncDispose]() {},
});

describe('the room of an overlay', () => {
  it('is refused to new blocks while there is some left, and what is there can be written, zeroed and flushed', async () => {
    const files = simulatedFiles();
    const overlay = await openOverlayOn({ files, boot: 'b', lock }, zeros(MIB), { create: true });
    await overlay.write(new Uint8Array(8192).fill(1), 0);
    files.plan.space = { free: 6 * MIB, total: 96 * MIB };
    // Another run, which has nothing left of what was handed out to the first.
    const after = files.afterKill(files.plan);
    const again = await openOverlayOn({ files: after, boot: 'b', lock }, zeros(MIB), { create: false });
    expect(() => again.write(new Uint8Array(8192), 16384)).toThrow(noSpace);
    await again.write(new Uint8Array(8192).fill(3), 0);
    await again.zero(MIB / 2, 8192);
    await again.flush();
    files.plan.space = { free: 7 * MIB, total: 96 * MIB };
    await again.write(new Uint8Array(8192).fill(4), 16384);
    await again.close();
  });

  it('counts what is not synced as not yet counted by the file system, and syncs before it refuses', async () => {
    const files = simulatedFiles();
    files.plan.space = { free: 64 * MIB + 40_000, total: 2 ** 40 };
    const overlay = await openOverlayOn({ files, boot: 'b', lock }, zeros(MIB), { create: true });
    let syncs = 0;
    files.plan.before = call => {
      if (call.what === 'sync' && call.name === 'data') syncs++;
    };
    for (let i = 0; i < 4; i++) await overlay.write(new Uint8Array(8192).fill(i), i * 8192);
    expect(syncs).toBe(0);
    const fifth = overlay.write(new Uint8Array(8192).fill(5), 5 * 8192);
    expect(fifth).toBeInstanceOf(Promise);
    await fifth;
    expect(syncs).toBe(1);
    const sixth = Promise.all([6, 7].map(i => overlay.write(new Uint8Array(8192).fill(i), i * 8192)));
    await sixth;
    files.plan.space = { free: 64 * MIB + 4000, total: 2 ** 40 };
    await expect(async () => {
      for (let i = 8; i < 16; i++) await overlay.write(new Uint8Array(8192), i * 8192);
    }).rejects.toEqual(noSpace);
    await overlay.close();
  });
});

/** A btrfs of 128 MiB at `folder`; false where that cannot be had. */
function mountBtrfs(image: string, folder: string): boolean {
  if (process.getuid?.() !== 0) return false;
  fs.writeFileSync(image, '');
  fs.truncateSync(image, 128 * MIB);
  const done = (program: string, ...args: string[]): boolean => spawnSync(program, args).status === 0;
  const env = `/usr/sbin:/sbin:${process.env.PATH}`;
  return (
    spawnSync('mkfs.btrfs', ['-q', image], { env: { ...process.env, PATH: env } }).status === 0 &&
    done('mount', '-o', 'loop', image, folder)
  );
}

let [place, folder, able] = ['', '', false];
beforeEach(() => {
  place = fs.mkdtempSync(path.join(os.tmpdir(), 'overlay-room-'));
  folder = path.join(place, 'mnt');
  fs.mkdirSync(folder);
});
afterEach(() => {
  if (able) spawnSync('umount', [folder]);
  fs.rmSync(place, { recursive: true, force: true });
});

/** Writes until it was refused 200 times, with flushes between; answers how many flushes failed. */
async function fillUp(overlay: Overlay): Promise<number> {
  const random = seeded(1);
  let [refused, failed] = [0, 0];
  for (let i = 0; refused < 200 && failed === 0 && i < 20_000; i++) {
    const block = new Uint8Array(4096 * (1 + (i % 16))).fill(i);
    try {
      await overlay.write(block, Math.floor(random() * 65_000) * 4096);
    } catch (error) {
      expect(error).toEqual(noSpace);
      refused++;
    }
    if (i % 50 === 0) await overlay.flush().catch(() => failed++);
  }
  expect(refused + failed).toBeGreaterThan(0);
  return failed;
}

describe('an overlay on a full btrfs, which notices only in a sync that it is full', () => {
  const run = async (files: OverlayFiles): Promise<number> => {
    const ground = { files, boot: bootId(), lock };
    const overlay = await openOverlayOn(ground, zeros(512 * MIB), { create: true });
    const failed = await fillUp(overlay);
    await overlay.close().catch(() => undefined);
    return failed;
  };

  it('never fails a flush', async ({ skip }) => {
    able = mountBtrfs(path.join(place, 'image'), folder);
    if (!able) skip('needs root, loop devices and btrfs-progs');
    expect(await run(localOverlayFiles(path.join(folder, 'clone')))).toBe(0);
  });

  it('is caught when the file system is used to its end', async ({ skip }) => {
    able = mountBtrfs(path.join(place, 'image'), folder);
    if (!able) skip('needs root, loop devices and btrfs-progs');
    const files = localOverlayFiles(path.join(folder, 'clone'));
    expect(await run({ ...files, space: () => ({ free: 2 ** 50, total: 2 ** 50 }) })).toBeGreaterThan(0);
  });
});

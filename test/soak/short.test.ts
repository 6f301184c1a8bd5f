/** Short versions of what `npm run soak` does in full, and how a mount ends: by signals, and by kills of all of it. */
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as after } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { mountsOf } from '../../src/host/fuse/mount.ts';
import { runPaths } from '../../src/server/paths.ts';
import { Blocks } from './blocks.ts';
import { oneFault } from './fault-figure.ts';
import { KINDS, workOn } from './file-system-figure.ts';
import { openStage, type Stage, type StageOptions } from './stage.ts';

const has = (program: string): boolean =>
  [...(process.env.PATH ?? '').split(':'), '/usr/sbin', '/sbin'].some(at => fs.existsSync(path.join(at, program)));
const wanting = ['strace', 'losetup', 'mkfs.ext4', 'e2fsck'].filter(program => !has(program));
const able = process.getuid?.() === 0 && fs.existsSync('/dev/fuse');
const cannot = !able ? 'needs root and /dev/fuse' : wanting.length > 0 ? `missing: ${wanting.join(' ')}` : '';
const title = (name: string): string => (cannot === '' ? name : `${name} (skipped: ${cannot})`);

const MIB = 2 ** 20;
const DISK = 16 * MIB;

let opened: Stage | null = null;
const stageOf = async (options: Partial<StageOptions> = {}): Promise<Stage> => {
  opened = await openStage({ formats: ['raw'], size: DISK, ...options });
  return opened;
};
afterEach(async () => {
  await opened?.[Symbol.asyncDispose]();
  opened = null;
});

/** Files of the clone's overlay. */
const filesOf = (stage: Stage): readonly string[] => fs.readdirSync(path.join(stage.state, 'clones/raw/disk0')).sort();
const remount = (stage: Stage): void =>
  void stage.bootmount('mount', path.join(stage.folder, 'repo'), stage.mnt, '--state', stage.state);

describe.skipIf(cannot !== '')(title('the end of a mount'), () => {
  it('by SIGTERM: busy, it goes on; free, it seals everything and leaves nothing half written', async () => {
    const stage = await stageOf();
    const { supervisor } = await stage.status();
    const fd = fs.openSync(stage.clone('raw'), 'r+');
    const blocks = new Blocks(fd, DISK, 1);
    for (let i = 0; i < 20; i++) await blocks.write();
    process.kill(supervisor.pid, 'SIGTERM');
    await expect
      .poll(() => fs.readFileSync(runPaths(stage.mnt).log, 'utf8'), { timeout: 5000 })
      .toMatch(/cannot unmount/);
    await blocks.write();
    await blocks.checkAll();
    fs.closeSync(fd);
    process.kill(supervisor.pid, 'SIGTERM');
    await expect.poll(() => mountsOf(stage.mnt), { timeout: 5000 }).toEqual([]);
    // No map of what is not flushed, no lock, no file aside.
    await expect.poll(() => filesOf(stage), { timeout: 5000 }).toEqual(['data', 'durable', 'overlay']);
    remount(stage);
    const again = fs.openSync(stage.clone('raw'), 'r');
    expect(await blocks.on(again).checkAll()).toBeGreaterThan(20);
    fs.closeSync(again);
  });

  it('by a second SIGTERM under an open file: the name goes at once, the rest when the file is closed', async () => {
    const stage = await stageOf();
    const { supervisor } = await stage.status();
    const fd = fs.openSync(stage.clone('raw'), 'r+');
    const blocks = new Blocks(fd, DISK, 2);
    await blocks.write();
    for (let i = 0; i < 2; i++) {
      process.kill(supervisor.pid, 'SIGTERM');
      await after(1000);
    }
    await expect.poll(() => mountsOf(stage.mnt), { timeout: 5000 }).toEqual([]);
    await blocks.write();
    await blocks.checkAll();
    fs.closeSync(fd);
    await expect.poll(() => filesOf(stage), { timeout: 5000 }).toEqual(['data', 'durable', 'overlay']);
  });

  /** Supervisor and worker are killed under load; answers how many blocks the next mount was checked to hold. */
  const killAll = async (plant: string | null): Promise<number> => {
    const stage = await stageOf({ plant });
    const fd = fs.openSync(stage.clone('raw'), 'r+');
    const blocks = new Blocks(fd, DISK, 3);
    await blocks.run(8, () => blocks.done > 300);
    await blocks.flush();
    const load = blocks.run(8, () => blocks.failures > 0);
    await after(100);
    const { supervisor, worker } = await stage.status();
    for (const { pid } of [supervisor, worker]) process.kill(pid, 'SIGKILL');
    await load;
    // Nobody is there to be told of it.
    expect(() => fs.closeSync(fd)).toThrow(/ENOTCONN/);
    remount(stage);
    const again = fs.openSync(stage.clone('raw'), 'r');
    try {
      return await blocks.on(again).checkAll();
    } finally {
      fs.closeSync(again);
    }
  };

  it('by SIGKILL of all its processes under load: the next mount heals it and has every write that was acknowledged', async () => {
    expect(await killAll(null)).toBeGreaterThan(300);
  });

  it('is caught when one change of the map in 20 is dropped', async () => {
    await expect(killAll('lost-mark')).rejects.toThrow(/MISMATCH/);
  });
});

describe.skipIf(cannot !== '')(title('a worker whose system calls fail'), () => {
  it.each([
    ['fsync', 'error=EIO', 1],
    ['pwrite64', 'error=ENOSPC', 12],
    ['pwrite64', 'signal=SIGKILL', 15],
    ['fdatasync', 'error=EIO', 1],
  ])('%s %s, call %i', async (call, effect, when) => {
    const stage = await stageOf({ formats: [] });
    expect(await oneFault(stage, 1, call, effect, when)).toBeGreaterThan(0);
  });

  it('is caught when a sync that failed is said to have been done', async () => {
    const stage = await stageOf({ formats: [], plant: 'sync-unseen' });
    await expect(oneFault(stage, 1, 'fdatasync', 'error=EIO', 1)).rejects.toThrow(/nobody was told/);
  });
});

describe.skipIf(cannot !== '')(title('ext4 on a loop device over a clone'), () => {
  it('is clean and right after kills of the worker', async () => {
    const stage = await stageOf({ size: 64 * MIB });
    expect(await workOn(stage, KINDS[0]!, 1, 3)).toMatch(/3 kills/);
  });
});

/** The disk under a running guest's clone gets full: QEMU pauses the guest, and it goes on where it was once there is space. */
import fs from 'node:fs';
import path from 'node:path';
import { type Figure, pause, type Run } from './figure.ts';
import { type Guest, LOOK_MS, PROGRAMS, startGuest } from './guest.ts';
import { GROUNDS, type Ground, giveSpace, MIB, mountSmall, takeSpace } from './small-disk.ts';
import { openStage, type Stage } from './stage.ts';

/** Larger than the space that is left each time, so that the guest comes upon the end of it. */
const DISK = 512 * MIB;
const LEFT = 20 * MIB;
/** In looks. */
const BOOT = 1800;
const ROUNDS = 1800;

/** Until QEMU has paused it because a write found no space. */
async function paused(guest: Guest): Promise<void> {
  let state = await guest.state();
  for (let left = ROUNDS; state !== 'io-error'; left--) {
    if (left === 0) throw new Error(`the guest was never paused, it is ${state}`);
    await pause(LOOK_MS);
    state = await guest.state();
  }
}

async function oneGuest(run: Run, stage: Stage, small: string): Promise<string> {
  const times = run.count(3);
  await using guest = startGuest(stage, ',werror=enospc,rerror=report');
  await guest.progress(1, PROGRAMS, BOOT);
  for (let done = 0; done < times; done++) {
    takeSpace(small, LEFT);
    await paused(guest);
    giveSpace(small);
    await guest.resume();
    // As many rounds as come before the next space is used up.
    await guest.progress(1, PROGRAMS, ROUNDS);
  }
  const { rounds, wrong } = guest.report();
  if (wrong.length > 0) throw new Error(wrong.slice(0, 3).join('; '));
  return `paused and resumed ${times} times, ${rounds.reduce((sum, n) => sum + n, 0)} rounds verified in the guest, 0 wrong`;
}

async function onGround(run: Run, ground: Ground): Promise<string> {
  const place = fs.mkdtempSync('/var/tmp/bootmount-soak-');
  const small = path.join(place, ground.name);
  try {
    await using stage = await openStage({
      formats: ['raw'],
      size: DISK,
      plant: run.plant,
      state: path.join(small, 'state'),
      prepare: tool => void mountSmall(tool, place, ground),
    });
    try {
      return await oneGuest(run, stage, small);
    } finally {
      stage.bootmount('umount', stage.mnt, '--release', '--force');
      stage.run('umount', '-l', small);
    }
  } finally {
    fs.rmSync(place, { recursive: true, force: true });
  }
}

async function runFullGuest(run: Run): Promise<void> {
  for (const ground of GROUNDS.filter(({ name }) => name === 'ext4' || name === 'btrfs')) {
    try {
      run.verdict(ground.name, true, await onGround(run, ground));
    } catch (error) {
      run.verdict(ground.name, false, error instanceof Error ? error.message : String(error));
    }
  }
}

export const fullGuestFigure: Figure = {
  name: 'FULL',
  what: 'the disk under a running guest gets full three times: QEMU pauses it, with space again it goes on, nothing is lost',
  plants: ['full-disk-unseen'],
  run: runFullGuest,
};

/** F17: the disk under the overlays gets full, again and again, and has space again. */
import fs from 'node:fs';
import path from 'node:path';
import { Blocks } from './blocks.ts';
import { type Figure, pause, type Run } from './figure.ts';
import { DEPTH, watchDepth } from './load.ts';
import { GROUNDS, type Ground, giveSpace, MIB, mountSmall, takeSpace } from './small-disk.ts';
import { openStage } from './stage.ts';

const DISK = 512 * MIB;
/** Refused writes that make a disk count as full. */
const REFUSED = 200;

async function fillAgainAndAgain(run: Run, ground: Ground, rounds: number): Promise<string> {
  const place = fs.mkdtempSync('/var/tmp/bootmount-soak-');
  await using space = await openStage({
    formats: ['raw'],
    size: DISK,
    plant: run.plant,
    state: path.join(place, ground.name, 'state'),
    prepare: tool => void mountSmall(tool, place, ground),
  });
  const small = path.join(place, ground.name);
  const seen = { refused: 0, flushes: 0, deepest: 0 };
  let fd = -1;
  try {
    fd = fs.openSync(space.clone('raw'), 'r+');
    const blocks = new Blocks(fd, DISK, run.seed);
    const depth = watchDepth(space);
    for (let round = 0; round < rounds; round++) {
      takeSpace(small, 40 * MIB);
      const before = blocks.errors.get('ENOSPC') ?? 0;
      let over = false;
      const flushing = (async () => {
        while (!over) {
          await blocks.flush();
          seen.flushes++;
          await pause(50);
        }
      })();
      const began = performance.now();
      await blocks.run(
        DEPTH,
        () => (blocks.errors.get('ENOSPC') ?? 0) - before >= REFUSED || performance.now() - began > 30_000,
      );
      giveSpace(small);
      // Space again: it is used as if nothing had been.
      const full = blocks.errors.get('ENOSPC') ?? 0;
      const done = blocks.done;
      await blocks.run(DEPTH, () => blocks.done > done + 500 || blocks.failures > full + 5000);
      over = true;
      await flushing;
      await blocks.checkAll();
      if (blocks.done <= done + 500) throw new Error(`it did not go on: ${[...blocks.errors]}`);
    }
    seen.deepest = depth.stop().deepest;
    await blocks.flush();
    seen.refused = blocks.errors.get('ENOSPC') ?? 0;
    const other = [...blocks.errors].filter(([code]) => code !== 'ENOSPC');
    if (other.length > 0) throw new Error(`errors other than ENOSPC: ${other.map(([code, n]) => `${code} × ${n}`)}`);
    if (seen.refused < REFUSED || seen.deepest < DEPTH)
      throw new Error(`only ${JSON.stringify(seen)}: not what was to be tried`);
    fs.closeSync(fd);
    fd = -1;
    // After a kill of all and a new mount everything is there still.
    const { supervisor, worker } = await space.status();
    for (const { pid } of [supervisor, worker]) process.kill(pid, 'SIGKILL');
    await pause(200);
    space.bootmount('mount', path.join(space.folder, 'repo'), space.mnt, '--state', space.state);
    const again = fs.openSync(space.clone('raw'), 'r');
    const held = await blocks.on(again).checkAll();
    fs.closeSync(again);
    return `${blocks.done} operations, ${seen.refused} refused with ENOSPC, ${seen.flushes} flushes, depth ${seen.deepest}, ${held} blocks right after a kill`;
  } finally {
    if (fd !== -1) fs.closeSync(fd);
    space.bootmount('umount', space.mnt, '--release', '--force');
    space.run('umount', '-l', small);
    fs.rmSync(place, { recursive: true, force: true });
  }
}

async function runFullDisk(run: Run): Promise<void> {
  const rounds = run.count(4);
  for (const ground of GROUNDS.filter(g => !process.env.ONLY || g.name === process.env.ONLY)) {
    try {
      run.verdict(ground.name, true, await fillAgainAndAgain(run, ground, rounds));
    } catch (error) {
      run.verdict(ground.name, false, error instanceof Error ? error.message : String(error));
    }
  }
}

export const fullDiskFigure: Figure = {
  name: 'F17',
  what: 'ENOSPC under load, then space, again and again, on four file systems: it goes on, 0 mismatches, no flush fails',
  plants: ['full-disk-unseen', 'no-room'],
  run: runFullDisk,
};

/** F18: file systems on a loop device over a clone, worked on while the worker is killed, then checked by their own tools. */
import fs from 'node:fs';
import path from 'node:path';
import { type Figure, pause, type Run } from './figure.ts';
import { openStage, type Stage, serving } from './stage.ts';
import { TreeLoad } from './tree-load.ts';

const SIZE = 512 * 2 ** 20;
const PROGRAMS = 8;

interface Kind {
  readonly name: string;
  readonly make: readonly string[];
  /** Ends with another code than 0 when something is wrong. */
  readonly check: readonly string[];
}
export const KINDS: readonly Kind[] = [
  { name: 'ext4', make: ['mkfs.ext4', '-q'], check: ['e2fsck', '-fn'] },
  { name: 'xfs', make: ['mkfs.xfs', '-q'], check: ['xfs_repair', '-n'] },
  { name: 'btrfs', make: ['mkfs.btrfs', '-q'], check: ['btrfs', 'check', '--readonly'] },
];

/** Runs a program with arguments that may take long, without holding up this process: the kills go on. */
async function loadedAndKilled(stage: Stage, at: string, seed: number, kills: number): Promise<readonly TreeLoad[]> {
  const loads = Array.from({ length: PROGRAMS }, (_, i) => new TreeLoad(path.join(at, `program-${i}`), seed + i));
  let over = false;
  const running = Promise.all(loads.map(load => load.run(() => over)));
  running.catch(() => undefined);
  for (let done = 0; done < kills; done++) {
    await pause(150 + 60 * (done % 8));
    process.kill((await serving(stage)).worker.pid, 'SIGKILL');
    await serving(stage);
  }
  await pause(200);
  over = true;
  await running;
  return loads;
}

/** Throws when the file system is not clean, or a file holds something else. */
export async function workOn(stage: Stage, { name, make, check }: Kind, seed: number, kills: number): Promise<string> {
  const at = path.join(stage.folder, `loop-${name}`);
  fs.mkdirSync(at, { recursive: true });
  const device = stage.run('losetup', '--find', '--show', '--direct-io=on', stage.clone('raw')).trim();
  try {
    stage.run(make[0]!, ...make.slice(1), ...(name === 'ext4' ? [] : ['-f']), device);
    stage.run('mount', device, at);
    let loads: readonly TreeLoad[];
    try {
      loads = await loadedAndKilled(stage, at, seed, kills);
    } finally {
      stage.run('umount', at);
    }
    stage.run(check[0]!, ...check.slice(1), device);
    stage.run('mount', '-o', 'ro', device, at);
    try {
      let files = 0;
      for (const load of loads) files += await load.check();
      const steps = loads.reduce((sum, load) => sum + load.done, 0);
      return `${kills} kills, ${steps} steps by ${PROGRAMS} programs, ${check[0]} finds nothing, ${files} files hold what they must`;
    } finally {
      stage.run('umount', at);
    }
  } finally {
    stage.run('losetup', '-d', device);
  }
}

async function runFileSystems(run: Run): Promise<void> {
  const rounds = run.count(3);
  for (let round = 0; round < rounds; round++) {
    for (const kind of KINDS) {
      await using stage = await openStage({ formats: ['raw'], size: SIZE, plant: run.plant });
      try {
        run.verdict(`${kind.name}, run ${round + 1}`, true, await workOn(stage, kind, run.seed + 100 * round, 10));
      } catch (error) {
        const { stdout, message } = error as Error & { stdout?: string };
        run.verdict(`${kind.name}, run ${round + 1}`, false, `${message.split('\n')[0]} ${stdout?.slice(-200) ?? ''}`);
      }
    }
  }
}

export const fileSystemFigure: Figure = {
  name: 'F18',
  what: 'ext4, XFS and btrfs on a loop device over a clone, with random work on files and kills: clean, and right, 3 runs',
  plants: ['lost-write'],
  run: runFileSystems,
};

/** A running guest does verified I/O on a clone while the worker is killed again and again. */
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Figure, pause, type Run } from './figure.ts';
import { openStage, serving } from './stage.ts';

const RECIPE = fileURLToPath(new URL('./guest.sh', import.meta.url));
const PROGRAMS = 4;
const BOOT_MS = 180_000;
const ROUNDS_MS = 120_000;

/** Rounds of the guest's programs so far, and what was wrong. */
function reportOf(serial: string): { readonly rounds: readonly number[]; readonly wrong: readonly string[] } {
  const rounds = new Array<number>(PROGRAMS).fill(0);
  for (const [, program, count] of serial.matchAll(/GUEST-OK program=(\d) rounds=(\d+)/g)) {
    rounds[Number(program)] = Number(count);
  }
  return { rounds, wrong: [...serial.matchAll(/GUEST-WRONG.*|I\/O error.*/g)].map(([line]) => line.trim()) };
}

async function runGuest(run: Run): Promise<void> {
  const kills = run.count(20);
  await using stage = await openStage({ formats: ['raw'], plant: run.plant });
  stage.run('bash', RECIPE, stage.folder);
  const child = spawn(
    'qemu-system-x86_64',
    [
      ...[
        '-accel',
        'tcg,thread=multi',
        '-m',
        '256',
        '-smp',
        '2',
        '-nodefaults',
        '-display',
        'none',
        '-serial',
        'stdio',
      ],
      ...['-kernel', path.join(stage.folder, 'vmlinuz'), '-initrd', path.join(stage.folder, 'initrd')],
      ...['-append', 'console=ttyS0 quiet panic=-1'],
      ...['-drive', `file=${stage.clone('raw')},format=raw,if=virtio,cache=none,aio=native`],
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let serial = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      serial += text;
    });
  }
  const ended = new Promise<void>(resolve => child.once('close', () => resolve()));
  /** Until so many of the programs have done `more` rounds since now. */
  const progress = async (more: number, programs: number, patience: number): Promise<void> => {
    const from = reportOf(serial).rounds;
    const until = performance.now() + patience;
    while (reportOf(serial).rounds.filter((n, i) => n >= from[i]! + more).length < programs) {
      if (child.exitCode !== null || performance.now() > until)
        throw new Error(`the guest stands still: ${serial.slice(-300)}`);
      await pause(100);
    }
  };
  try {
    await progress(2, PROGRAMS, BOOT_MS);
    for (let done = 0; done < kills; done++) {
      process.kill((await serving(stage)).worker.pid, 'SIGKILL');
      // It goes on, and is hit in another place the next time.
      await progress(1, 2, ROUNDS_MS);
      await pause(40 * (done % 10));
    }
    await progress(5, PROGRAMS, ROUNDS_MS);
    const { rounds, wrong } = reportOf(serial);
    const { restarts } = (await serving(stage)).worker;
    const good = wrong.length === 0 && restarts >= kills;
    const total = rounds.reduce((sum, n) => sum + n, 0);
    run.verdict(
      'guest',
      good,
      `${kills} kills, ${total} rounds verified in the guest, ${wrong.length} wrong ${wrong.slice(0, 2).join('; ')}`,
    );
  } finally {
    child.kill('SIGTERM');
    await ended;
    fs.rmSync(path.join(stage.folder, 'root'), { recursive: true, force: true });
  }
}

export const guestFigure: Figure = {
  name: 'GUEST',
  what: 'a running QEMU guest with verified I/O on a clone survives 20 kills of the worker',
  plants: ['lost-mark'],
  run: runGuest,
};

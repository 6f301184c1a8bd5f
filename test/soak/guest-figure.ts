/** A running guest does verified I/O on a clone while the worker is killed again and again. */
import { type Figure, pause, type Run } from './figure.ts';
import { PROGRAMS, startGuest } from './guest.ts';
import { openStage, serving } from './stage.ts';

/** In looks. */
const BOOT = 1800;
const ROUNDS = 1200;

async function runGuest(run: Run): Promise<void> {
  const kills = run.count(20);
  await using stage = await openStage({ formats: ['raw'], plant: run.plant });
  await using guest = startGuest(stage);
  await guest.progress(2, PROGRAMS, BOOT);
  for (let done = 0; done < kills; done++) {
    process.kill((await serving(stage)).worker.pid, 'SIGKILL');
    // It goes on, and is hit in another place the next time.
    await guest.progress(1, 2, ROUNDS);
    await pause(40 * (done % 10));
  }
  await guest.progress(5, PROGRAMS, ROUNDS);
  const { rounds, wrong } = guest.report();
  const { restarts } = (await serving(stage)).worker;
  const total = rounds.reduce((sum, n) => sum + n, 0);
  run.verdict(
    'guest',
    wrong.length === 0 && restarts >= kills,
    `${kills} kills, ${total} rounds verified in the guest, ${wrong.length} wrong ${wrong.slice(0, 2).join('; ')}`,
  );
}

export const guestFigure: Figure = {
  name: 'GUEST',
  what: 'a running QEMU guest with verified I/O on a clone survives 20 kills of the worker',
  plants: ['lost-mark'],
  run: runGuest,
};

/** F5: every call of a scenario fails once: on simulated files in this process, and by strace in a real worker. */
import { type ChildProcess, spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { ImageError } from '../../src/base/errors.ts';
import { FAULTS, holdWith } from '../../src/overlay/overlay-scenarios.ts';
import type { CloneRequest } from '../../src/server/protocol.ts';
import { Blocks } from './blocks.ts';
import { type Figure, pause, type Run } from './figure.ts';
import { openStage, type Stage, serving } from './stage.ts';

const USED = 4 * 2 ** 20;
const MOST_ROUNDS = 60;

async function runInProcess(run: Run): Promise<void> {
  for (const kind of FAULTS) {
    const name = `${kind.code}${kind.part === undefined ? '' : ` after ${kind.part} of the bytes`}`;
    let call = 1;
    for (; ; call++) {
      const machine = await holdWith({ call, ...kind });
      if (!machine.files.plan.faulted) break;
      const silent = machine.errors.length === 0 || machine.errors.some(error => !(error instanceof ImageError));
      if (silent) throw new Error(`${name}: call ${call} failed and nobody was told`);
    }
    run.verdict(`in process, ${name}`, true, `${call - 1} calls, each failed once: 0 violations`);
  }
}

/** System calls of the worker that have to do with overlays alone: the kernel's requests go through read and write. */
const INJECTIONS: readonly (readonly [call: string, effect: string])[] = [
  ['pwrite64', 'error=EIO'],
  ['pwrite64', 'error=ENOSPC'],
  ['pwrite64', 'error=EINTR'],
  ['pwrite64', 'signal=SIGKILL'],
  ['pread64', 'error=EIO'],
  ['pread64', 'signal=SIGKILL'],
  ['fdatasync', 'error=EIO'],
  ['fdatasync', 'error=ENOSPC'],
  ['fdatasync', 'signal=SIGKILL'],
  ['fsync', 'error=EIO'],
  ['openat', 'error=EMFILE'],
  ['openat', 'error=EIO'],
  ['ftruncate', 'error=EIO'],
  ['rename', 'error=EIO'],
  ['rename', 'signal=SIGKILL'],
  ['statfs', 'error=EIO'],
];

interface Strace {
  /** Lets go of the worker, and says how often it interfered. */
  stop(): Promise<number>;
}

async function attach(stage: Stage, call: string, effect: string, when: number): Promise<Strace> {
  const log = path.join(stage.folder, 'strace');
  const { pid } = (await serving(stage)).worker;
  const child: ChildProcess = spawn(
    'strace',
    ['-f', '-p', String(pid), '-e', `trace=${call}`, '-e', `inject=${call}:${effect}:when=${when}`, '-o', log],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  const ended = new Promise<void>(resolve => child.once('close', () => resolve()));
  await new Promise<void>((resolve, reject) => {
    child.once('error', reject).once('close', () => reject(new Error('strace cannot attach')));
    child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      if (text.includes('attached')) resolve();
    });
  });
  return {
    async stop() {
      child.kill('SIGTERM');
      await ended;
      const killed = effect.startsWith('signal') ? /SIGKILL/g : /\(INJECTED\)/g;
      return fs.readFileSync(log, 'utf8').match(killed)?.length ?? 0;
    },
  };
}

/**
 * Writes, flushes and reads on a clone. `forGood`: what fails is a sync, after which the kernel no longer knows what did not
 * arrive, and no flush may be good any more. A write that failed is repeated by the next flush.
 */
async function useClone(blocks: Blocks, fd: number, forGood: boolean): Promise<void> {
  let failed = false;
  for (let part = 0; part < 4; part++) {
    for (let i = 0; i < 3; i++) await blocks.write();
    if (part === 2)
      await new Promise(resolve =>
        spawn('fallocate', ['-p', '-o', String(USED), '-l', '1M', `/proc/${process.pid}/fd/${fd}`]).once(
          'close',
          resolve,
        ),
      );
    const before = blocks.failures;
    await blocks.flush();
    const good = blocks.failures === before;
    if (good && failed && forGood) throw new Error('a flush is good after a sync that failed');
    failed ||= !good;
    await blocks.check();
  }
}

/** Nothing of a clone that could not be made is in the way: it can be made now, or it was made after all. */
async function makeAgain(stage: Stage, request: CloneRequest): Promise<void> {
  try {
    await stage.ask({ verb: 'clone', request });
  } catch (error) {
    const { clones } = await stage.status();
    if (!clones.some(clone => clone.name === request.name && clone.state === 'ok')) throw error;
  }
  await stage.ask({ verb: 'clone-delete', name: request.name });
}

/** One scenario with one call failing; answers how often it was interfered. */
export async function oneFault(
  stage: Stage,
  seed: number,
  call: string,
  effect: string,
  when: number,
): Promise<number> {
  const request = { point: 'soak@latest', name: 'fault', format: 'raw' };
  const strace = await attach(stage, call, effect, when);
  let made = true;
  try {
    await stage.ask({ verb: 'clone', request });
  } catch (error) {
    // Refused clearly, or cut off by a kill.
    if (!(error instanceof ImageError)) throw error;
    made = false;
  }
  if (!made) {
    const interfered = await strace.stop();
    await serving(stage);
    await makeAgain(stage, request);
    return interfered;
  }
  const file = path.join(stage.mnt, 'clones/fault/disk0.raw');
  let interfered = 0;
  let fd: number;
  try {
    fd = fs.openSync(file, 'r+');
  } catch {
    interfered = await strace.stop();
    fd = fs.openSync(file, 'r+');
  }
  try {
    const blocks = new Blocks(fd, USED, seed);
    try {
      await useClone(blocks, fd, call === 'fdatasync' || call === 'fsync');
    } finally {
      interfered = Math.max(interfered, await strace.stop());
    }
    const told = blocks.failures > 0 || !effect.startsWith('error') || effect === 'error=EINTR';
    if (call === 'fdatasync' && interfered > 0 && !told) throw new Error('a sync failed and nobody was told');
    const held = await blocks.checkAll();
    // The next worker knows nothing but what is on disk.
    process.kill((await serving(stage)).worker.pid, 'SIGKILL');
    await serving(stage);
    const failures = blocks.failures;
    if ((await blocks.checkAll()) !== held || blocks.failures > failures)
      throw new Error('not all of it is there after a kill');
  } finally {
    fs.closeSync(fd);
  }
  for (let tries = 0; ; tries++) {
    try {
      await stage.ask({ verb: 'clone-delete', name: 'fault' });
      return interfered;
    } catch (error) {
      // The file is let go of a moment after it was closed.
      if (tries === 50) throw error;
      await pause(20);
    }
  }
}

async function runInWorker(run: Run): Promise<void> {
  await using stage = await openStage({ formats: [], plant: run.plant });
  for (const [call, effect] of INJECTIONS) {
    const rounds = Math.min(MOST_ROUNDS, run.count(MOST_ROUNDS));
    let when = 1;
    try {
      while (when <= rounds && (await oneFault(stage, run.seed, call, effect, when)) > 0) when++;
      run.verdict(`worker, ${call} ${effect}`, when > 1, `${when - 1} calls, each failed once: 0 violations`);
    } catch (error) {
      run.verdict(
        `worker, ${call} ${effect}, call ${when}`,
        false,
        error instanceof Error ? error.message : String(error),
      );
      await stage.ask({ verb: 'clone-delete', name: 'fault' }).catch(() => undefined);
    }
  }
}

export const faultFigure: Figure = {
  name: 'F5',
  what: 'each system call of a scenario failed once, by error, in part, by a kill: in process and in the worker',
  plants: ['sync-unseen'],
  async run(run) {
    if (run.plant === null) await runInProcess(run);
    await runInWorker(run);
  },
};

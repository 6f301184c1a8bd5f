/** F1 to F3: the verified load, alone, under kills of the worker, and under upgrades. */
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { type Figure, pause, type Run } from './figure.ts';
import { DEPTH, deep, LOAD_SIZE, type LoadResult, onFile, passes, startLoad, troubles, watchDepth } from './load.ts';
import { openStage, type Stage, serving } from './stage.ts';

const WORST_STALL_MS = 2000;
/** Nothing moves for so many seconds: the callers are given an error, and the figure is missed. Counted in looks, since all of this may be stopped for a while. */
const STUCK = 20;
/** QEMU's threads pass on what fio keeps under way more slowly than the mount answers it: 9 to 15 at a time were seen. */
const QEMU_DEPTH = 8;
const CONNECTIONS = 4;

interface Target {
  readonly flags: readonly string[];
  /** Requests that the kernel has to have waited for at once; 0: this is not on the mount. */
  readonly depth: number;
  end(): void;
}

/** QEMU's own driver for a format that fio cannot write to, as a network block device. */
async function throughQemu(stage: Stage, format: string): Promise<Target> {
  const socket = path.join(stage.folder, `nbd-${format}`);
  const nbd = spawn(
    'qemu-nbd',
    ['-f', format, '--cache=none', '--aio=native', '-t', '-e', `${CONNECTIONS}`, '-k', socket, stage.clone(format)],
    { stdio: 'ignore' },
  );
  while (!fs.existsSync(socket)) {
    if (nbd.exitCode !== null) throw new Error(`qemu-nbd ended with ${nbd.exitCode}`);
    await pause(50);
  }
  // Each has its part of the disk.
  const part = LOAD_SIZE / CONNECTIONS;
  const parts = [`--numjobs=${CONNECTIONS}`, `--size=${part}`, `--offset_increment=${part}`, '--group_reporting'];
  return {
    flags: ['--ioengine=nbd', `--uri=nbd+unix:///?socket=${socket}`, ...parts],
    depth: QEMU_DEPTH,
    end: () => void nbd.kill(),
  };
}

/** The guest's part of a file, which in a QCOW2 view lies in one piece: QEMU says where. */
function guestData(stage: Stage, format: string): Target {
  const map = stage.run('qemu-img', 'map', '-f', format, '--output=json', stage.clone(format));
  const pieces = JSON.parse(map) as readonly { readonly start: number; readonly offset: number }[];
  const offset = pieces[0]!.offset;
  if (pieces.some(piece => piece.offset - piece.start !== offset))
    throw new Error('the guest data is not in one piece');
  return onMount([...onFile(stage.clone(format)), `--offset=${offset}`]);
}

const onMount = (flags: readonly string[]): Target => ({ flags, depth: DEPTH, end() {} });

const good = (load: LoadResult, operations: number): boolean =>
  load.error === 0 && load.told === '' && load.operations >= operations;

async function runAlone(run: Run): Promise<void> {
  const operations = run.count(1_000_000);
  await using stage = await openStage({ formats: ['raw', 'vhd', 'qcow2'], plant: run.plant });
  const control = path.join(stage.folder, 'control');
  const targets: [string, () => Promise<Target>][] = [
    ['a plain file (control)', async () => ({ ...onMount(onFile(control)), depth: 0 })],
    ['raw', async () => onMount(onFile(stage.clone('raw')))],
    ['vhd', async () => onMount(onFile(stage.clone('vhd')))],
    ['qcow2', async () => guestData(stage, 'qcow2')],
    ['qcow2 through qemu-nbd', () => throughQemu(stage, 'qcow2')],
  ];
  for (const [name, open] of targets) {
    const { flags, depth: wanted, end } = await open();
    const depth = watchDepth(stage);
    try {
      const load = await startLoad(stage.folder, flags, passes(operations), run.seed).done;
      const seen = depth.stop();
      const queue = `depth of fio ${load.depth}${wanted === 0 ? '' : `, of the mount ${deep(seen)}`}`;
      run.verdict(
        name,
        good(load, operations) && load.depth >= DEPTH && seen.deepest >= wanted,
        `${load.operations} operations, ${troubles(load)}, slowest ${load.worst.toFixed(0)} ms, ${queue}`,
      );
    } finally {
      depth.stop();
      end();
    }
  }
}

/** Disturbs the mount `times` times under load, each time 50 to 350 ms after it began to serve, and says what the load saw. */
async function disturbed(
  run: Run,
  stage: Stage,
  times: number,
  disturb: () => Promise<unknown>,
): Promise<LoadResult & { readonly times: number; readonly deepest: number }> {
  // Longer than it takes; it is stopped by a signal, after which fio reports what it did.
  const load = startLoad(stage.folder, onFile(stage.clone('raw')), ['--time_based', '--runtime=7200'], run.seed);
  const depth = watchDepth(stage);
  let done = 0;
  let still = 0;
  const rounds = (async () => {
    for (; done < times && !load.over && still < STUCK; done++) {
      // Only now: the worker of the moment has begun to serve.
      await serving(stage);
      await pause(50 + 30 * (done % 11));
      await disturb();
      if (done % 100 === 99) run.say(`${done + 1} of ${times}`);
    }
  })();
  // A mount that answers nothing any more would hold fio, and with it this run, for ever.
  let [last, ended] = [0, false];
  const watch = setInterval(() => {
    still = done === last ? still + 1 : 0;
    last = done;
    if (still === STUCK) stage.abort();
  }, 1000);
  try {
    await rounds;
    load.stop();
    still = 0;
    const result = await load.done;
    ended = true;
    return { ...result, times: done, deepest: depth.stop().deepest };
  } finally {
    clearInterval(watch);
    depth.stop();
    if (!ended) load.stop();
  }
}

async function runKills(run: Run): Promise<void> {
  const kills = run.count(1000);
  await using stage = await openStage({ formats: ['raw'], plant: run.plant });
  const load = await disturbed(run, stage, kills, async () =>
    process.kill((await serving(stage)).worker.pid, 'SIGKILL'),
  );
  const { restarts } = (await serving(stage)).worker;
  const text = `${load.times} kills, ${restarts} restarts, ${load.operations} operations, ${troubles(load)}`;
  const reached = good(load, 0) && load.times === kills && restarts >= kills && load.deepest >= DEPTH;
  run.verdict('kills', reached, `${text}, slowest ${load.worst.toFixed(0)} ms, depth ${load.deepest}`);
}

async function runUpgrades(run: Run): Promise<void> {
  const upgrades = run.count(100);
  await using stage = await openStage({ formats: ['raw'], plant: run.plant });
  const load = await disturbed(run, stage, upgrades, () => stage.ask({ verb: 'upgrade' }));
  const text = `${load.times} upgrades, ${load.operations} operations, ${troubles(load)}`;
  const reached = good(load, 0) && load.times === upgrades && load.worst <= WORST_STALL_MS && load.deepest >= DEPTH;
  run.verdict('upgrades', reached, `${text}, slowest ${load.worst.toFixed(0)} ms, depth ${load.deepest}`);
}

export const loadFigures: readonly Figure[] = [
  {
    name: 'F1',
    what: '10^6 verified operations, 4–64 KiB, depth 16, O_DIRECT, through a clone as raw, VHD and QCOW2',
    plants: ['stale-payload', 'one-at-a-time'],
    run: runAlone,
  },
  {
    name: 'F2',
    what: '1,000 kills of the worker under that load: no error, no mismatch, nothing acknowledged lost',
    plants: ['lost-mark', 'no-resend'],
    run: runKills,
  },
  {
    name: 'F3',
    what: '100 upgrades under that load: no error, worst stall at most 2 s',
    plants: ['lost-mark', 'no-resend'],
    run: runUpgrades,
  },
];

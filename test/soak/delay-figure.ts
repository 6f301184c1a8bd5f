/** F15: how long a worker under load lets anybody wait. */
import fs from 'node:fs';
import path from 'node:path';
import type { Delays, Percentiles } from './delays.ts';
import type { Figure, Run } from './figure.ts';
import { DEPTH, deep, onFile, startLoad, troubles, watchDepth } from './load.ts';
import { openStage } from './stage.ts';

const P99_MS = 10;
const MAX_MS = 50;

const text = ({ count, p50, p99, max }: Percentiles): string =>
  `p50 ${p50.toFixed(2)}, p99 ${p99.toFixed(2)}, max ${max.toFixed(1)} ms of ${count}`;

async function runDelays(run: Run): Promise<void> {
  const seconds = run.count(60);
  const file = path.join(fs.mkdtempSync('/tmp/bootmount-soak-'), 'delays');
  try {
    await using stage = await openStage({ formats: ['raw'], plant: run.plant, delays: file });
    const depth = watchDepth(stage);
    const flags = ['--time_based', `--runtime=${seconds}`];
    const load = await startLoad(stage.folder, onFile(stage.clone('raw')), flags, run.seed).done;
    const seen = depth.stop();
    stage.bootmount('umount', stage.mnt, '--release');
    const { answers, loop } = JSON.parse(fs.readFileSync(file, 'utf8')) as Delays;
    const enough = load.error === 0 && seen.deepest >= DEPTH;
    run.verdict('load', enough, `${load.operations} operations, ${troubles(load)}, ${deep(seen)}`);
    run.verdict('from a request to its answer', answers.p99 <= P99_MS && answers.max <= MAX_MS, text(answers));
    run.verdict('event loop', loop.p99 <= P99_MS && loop.max <= MAX_MS, text(loop));
  } finally {
    fs.rmSync(path.dirname(file), { recursive: true, force: true });
  }
}

export const delayFigure: Figure = {
  name: 'F15',
  what: 'under the load of F1 nobody waits longer for the worker than 10 ms in 99 of 100 cases, than 50 ms ever',
  plants: ['slow-thread'],
  run: runDelays,
};

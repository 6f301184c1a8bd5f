/**
 * `npm run fuzz -- TARGET… [--cases N] [--seed N] [--from N]`: sound files with damaged fields are opened and read. Every
 * case must end in bytes or in an ImageError, within a second and 64 MiB, close what it opened, and ask for no name that
 * leads out of its store. Cases that do not are kept in test/fuzz/corpus and end the run with exit code 1.
 */
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import { caseOf, type Prepared } from './case.ts';
import { keep } from './corpus.ts';
import { prepare, TARGETS, targetOf, unusable } from './targets.ts';
import type { Found, Work } from './worker.ts';

/** Seconds in which this process ran: one that is stopped for a while does not hang. */
const HANGS_AFTER = 30;
const HEAP_MB = 512;
/** What a case leaves behind is collected while it is still cheap to do so. */
const YOUNG_MB = 16;
/** More of the same helps nobody. */
const ENOUGH = 20;
const KEPT_OF_A_KIND = 2;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    cases: { type: 'string', default: '1000000' },
    seed: { type: 'string', default: '1' },
    from: { type: 'string', default: '0' },
  },
});
const seed = Number(values.seed);

/** Runs the cases from `from` on; the number of the case that ended the thread early, and why, or null. */
function runThread(
  target: string,
  { seeds }: Prepared,
  from: number,
  to: number,
  onFound: (found: Found) => void,
): Promise<Found | null> {
  const at = new Int32Array(new SharedArrayBuffer(4));
  const workerData: Work = { target, seeds, seed, from, to, at };
  const thread = new Worker(new URL('worker.ts', import.meta.url), {
    workerData,
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MB, maxYoungGenerationSizeMb: YOUNG_MB },
  });
  return new Promise(resolve => {
    let [last, ticks, seconds] = [0, 0, 0];
    let ended: Found | null = null;
    const watchdog = setInterval(() => {
      const now = Atomics.load(at, 0);
      if (++seconds % 60 === 0) process.stderr.write(`${target}: ${now} of ${to} cases\n`);
      ticks = now === last ? ticks + 1 : 0;
      last = now;
      if (now === 0 || ticks < HANGS_AFTER) return;
      ended = { n: now - 1, why: `hangs: more than ${HANGS_AFTER} s` };
      void thread.terminate();
    }, 1000);
    thread.on('message', onFound);
    thread.on('error', error => {
      ended = { n: Atomics.load(at, 0) - 1, why: error.stack ?? String(error) };
    });
    thread.on('exit', () => {
      clearInterval(watchdog);
      const now = Atomics.load(at, 0);
      // Nothing kept it running, and yet something was waited for.
      if (ended === null && now !== to + 1) ended = { n: now - 1, why: 'waits for what never comes' };
      resolve(ended);
    });
  });
}

/** Fuzzes one target; the number of cases that went wrong. */
async function fuzz(name: string, from: number, cases: number): Promise<number> {
  const prepared = await prepare(name);
  const began = performance.now();
  const to = from + cases;
  let wrong = 0;
  const kinds = new Map<string, number>();
  const onFound = ({ n, why }: Found): void => {
    const kind = why.slice(0, 200).replace(/"[^"]*"|\d+/g, '');
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    if (wrong++ >= ENOUGH || kinds.get(kind)! > KEPT_OF_A_KIND) return;
    const file = n < 0 ? 'no case' : keep(name, caseOf(prepared, seed, n), why);
    process.stdout.write(`${name}: case ${n}: ${file}: ${why}\n`);
  };
  for (let next = from; next < to && wrong < ENOUGH; ) {
    const ended = await runThread(name, prepared, next, to, onFound);
    if (ended !== null) onFound(ended);
    if (ended === null || ended.n < 0) break;
    next = ended.n + 1;
  }
  const seconds = (performance.now() - began) / 1000;
  const rate = (cases / seconds).toFixed(0);
  process.stdout.write(`${name}: ${cases} cases, ${wrong} wrong, ${seconds.toFixed(0)} s (${rate}/s), seed ${seed}\n`);
  return wrong;
}

let wrong = 0;
for (const name of positionals.length === 0 ? TARGETS : positionals) {
  if (!TARGETS.includes(name)) {
    process.stderr.write(`fuzz: no such target: ${name} (${TARGETS.join(', ')})\n`);
    process.exitCode = 2;
    break;
  }
  const reason = unusable(await targetOf(name));
  if (reason === null) wrong += await fuzz(name, Number(values.from), Number(values.cases));
  else process.stdout.write(`${name}: left out (${reason})\n`);
}
if (wrong > 0) process.exitCode = 1;

/**
 * `npm run soak -- [FIGURE…] [--count N] [--seed N] [--plant NAME | --plants]`: the reliability figures in full, all of
 * them unless some are named. Needs root, /dev/fuse and the programs of `.ci/run`, GUEST and FULL also those that tiny-disk.sh
 * names for Linux. Ends with exit code 1 when a figure is not reached.
 *
 * With `--plant` an error is planted into the program (`--plants`: each that the figure knows, one after another), at a
 * fraction of the count; the exit code is then 1 when the figure was reached all the same.
 */
import { parseArgs } from 'node:util';
import { damageFigures } from './damage-figure.ts';
import { delayFigure } from './delay-figure.ts';
import { extentsFigure } from './extents-figure.ts';
import { faultFigure } from './fault-figure.ts';
import type { Figure, Run } from './figure.ts';
import { fileSystemFigure } from './file-system-figure.ts';
import { fullDiskFigure } from './full-disk-figure.ts';
import { fullGuestFigure } from './full-guest-figure.ts';
import { guestFigure } from './guest-figure.ts';
import { loadFigures } from './load-figures.ts';
import { modelFigures } from './model-figures.ts';
import { nonceFigure } from './nonce-figure.ts';
import { offsetFigure } from './offset-figure.ts';

const figures: readonly Figure[] = [
  ...loadFigures,
  ...modelFigures,
  faultFigure,
  delayFigure,
  offsetFigure,
  fullDiskFigure,
  fileSystemFigure,
  guestFigure,
  fullGuestFigure,
  extentsFigure,
  ...damageFigures,
  nonceFigure,
];

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    count: { type: 'string' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    plant: { type: 'string' },
    plants: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});
const say = (text: string): void => void process.stdout.write(`${text}\n`);

/** Runs one figure; true: as it should be. */
async function one(figure: Figure, plant: string | null): Promise<boolean> {
  let missed = 0;
  const run: Run = {
    plant,
    seed: Number(values.seed),
    count: full => (values.count === undefined ? (plant === null ? full : Math.ceil(full / 20)) : Number(values.count)),
    verdict(what, reached, seen) {
      if (!reached) missed++;
      say(`${reached ? 'reached' : 'MISSED '}  ${figure.name}, ${what}: ${seen}`);
    },
    say: text => void process.stderr.write(`${figure.name}: ${text}\n`),
  };
  const began = performance.now();
  say(`── ${figure.name}${plant === null ? '' : `, planted: ${plant}`} (seed ${values.seed}): ${figure.what}`);
  try {
    await figure.run(run);
  } catch (error) {
    missed++;
    say(`MISSED   ${figure.name}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
  }
  say(`         ${((performance.now() - began) / 1000).toFixed(0)} s`);
  if (plant === null) return missed === 0;
  say(missed > 0 ? `caught   ${plant}` : `UNSEEN   ${plant}: the figure was reached with it`);
  return missed > 0;
}

const wanted = positionals.map(name => name.toUpperCase());
const unknown = wanted.filter(name => !figures.some(figure => figure.name.toUpperCase() === name));
if (values.help || unknown.length > 0) {
  if (unknown.length > 0) say(`unknown: ${unknown.join(' ')}`);
  for (const { name, what, plants } of figures) say(`${name.padEnd(8)} ${what}\n         plants: ${plants.join(', ')}`);
  process.exitCode = unknown.length > 0 ? 2 : 0;
} else {
  let wrong = 0;
  for (const figure of figures.filter(({ name }) => wanted.length === 0 || wanted.includes(name.toUpperCase()))) {
    const plants = values.plants ? figure.plants : [values.plant ?? null];
    for (const plant of plants) if (!(await one(figure, plant))) wrong++;
  }
  process.exitCode = wrong === 0 ? 0 : 1;
}

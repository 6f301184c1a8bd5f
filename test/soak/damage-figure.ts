/**
 * F7: a small repository with every single damage; nothing is missed, and no wrong byte is read. F7_KIND=TEXT: only the kinds
 * with the text in their name, so that the run can be divided.
 */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { type Kind, kindsOf } from './damage.ts';
import type { Figure, Run } from './figure.ts';
import { problemsAt, readPoints, SECRETS, type SmallRepository, smallRepository } from './small-repository.ts';

/** Of so many damages one is looked at on all levels, also when a lower one has found it. */
const CONTROL = 64;

export interface Tally {
  cases: number;
  /** Found at each level: 1 and 2 without the key, 3 with it. */
  readonly found: [number, number, number];
  /** Every point is read as it was. */
  right: number;
  /** What level 3 owes and did not find. */
  readonly missed: string[];
}

/** Tries a damage of a kind now and then, `cases` in all, or each one. */
export async function tally(
  repository: SmallRepository,
  other: SmallRepository,
  kind: Kind,
  cases: number,
  each: () => void = () => {},
): Promise<Tally> {
  const { damages, owes } = kind;
  const wanted = Math.min(cases, damages.length);
  const seen: Tally = { cases: 0, found: [0, 0, 0], right: 0, missed: [] };
  for (let i = 0; i < wanted; i++) {
    const { title, make } = damages[Math.floor(((i + 0.5) * damages.length) / wanted)]!;
    const files = make();
    const read = await readPoints(repository, files, other.disks).catch((error: unknown) => {
      throw new Error(`${kind.name}: ${title}`, { cause: error });
    });
    if (read === 'right') seen.right++;
    // Each level does all that a lower one does; that is looked at now and then.
    const all = i % CONTROL === 0;
    let found = false;
    for (const level of [1, 2, 3] as const) {
      if (found && !all) {
        seen.found[level - 1]!++;
        continue;
      }
      const now = (await problemsAt(repository, files, level, level === 3)) > 0;
      if (found && !now) seen.missed.push(`${title}: found at level ${level - 1} and not at level ${level}`);
      if (now) seen.found[level - 1]!++;
      found = now;
    }
    if (!found && (owes === 'all' || (owes === 'effect' && read !== 'right'))) seen.missed.push(title);
    seen.cases++;
    each();
  }
  return seen;
}

const percent = (part: number, of: number): string => {
  const share = (100 * part) / of;
  return `${part === of || part === 0 ? share : share.toFixed(1)} %`;
};

async function runDamage(run: Run, secret: Uint8Array | null): Promise<void> {
  const repository = await smallRepository(secret);
  const other = await smallRepository(secret);
  const all = kindsOf(repository, other.files);
  const kinds = all.filter(({ name }) => name.includes(process.env.F7_KIND ?? ''));
  const wanted = run.count(Number.MAX_SAFE_INTEGER);
  let done = 0;
  for (const kind of kinds) {
    const seen = await tally(repository, other, kind, wanted, () => {
      if (++done % 10_000 === 0) run.say(`${done} damages, ${kind.name}`);
    });
    const levels = seen.found.map(found => percent(found, seen.cases)).join(', ');
    const undetected = seen.cases - seen.found[2];
    const harmless = undetected === 0 ? '' : `, ${undetected} of no effect`;
    const what = `${seen.cases} damages; levels 1, 2, 3 find ${levels}${harmless}; ${seen.right} read right, others refused`;
    run.verdict(kind.name, seen.missed.length === 0, `${what}; 0 wrong bytes`);
    for (const title of seen.missed.slice(0, 20)) run.say(`not found: ${title}`);
  }
}

/** The same in a process whose code has a fault. */
function runPlanted(run: Run, name: string): void {
  const soak = path.resolve(import.meta.dirname, 'soak.ts');
  const hook = path.resolve(import.meta.dirname, 'bml-plants.ts');
  const args = ['--import', hook, soak, name, '--count', String(run.count(10_000))];
  const ran = spawnSync(process.execPath, args, { env: { ...process.env, BML_PLANT: run.plant! }, encoding: 'utf8' });
  const red = ran.stdout.split('\n').find(line => line.startsWith('MISSED'));
  run.verdict('planted', ran.status === 0, red ?? ran.stderr.slice(-500));
}

export const damageFigures: readonly Figure[] = Object.entries(SECRETS).map(([name, secret]) => {
  const figure = `F7-${name.toUpperCase()}`;
  return {
    name: figure,
    what: `every damage to a small repository, ${name}: found at level 3 or of no effect, no wrong byte read`,
    plants: ['no-checksum', 'no-digest', 'no-hash', 'no-sum'],
    run: async run => (run.plant === null ? runDamage(run, secret) : runPlanted(run, figure)),
  };
});

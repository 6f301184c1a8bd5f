import { ImageError } from '../base/errors.ts';
import { type Plan, planPrune, prune } from '../jobs/prune.ts';
import { type ChainArgs, chainOptions, openChainSet, refuseKeys } from './chain-set.ts';
import { display, table } from './text.ts';
import type { Bar, Context, Verb } from './verb.ts';

type PruneArgs = ChainArgs & {
  readonly keepLast: number;
  readonly keepDaily: number;
  readonly keepWeekly: number;
  readonly keepMonthly: number;
  readonly dryRun: boolean;
  readonly yes: boolean;
};

function rulesOf(args: PruneArgs): { last: number; daily: number; weekly: number; monthly: number } {
  const rules = { last: args.keepLast, daily: args.keepDaily, weekly: args.keepWeekly, monthly: args.keepMonthly };
  for (const [rule, count] of Object.entries(rules)) {
    if (Number.isSafeInteger(count) && count >= 0) continue;
    throw new ImageError('usage', 'a rule keeps a whole number of points', { field: `--keep-${rule}` });
  }
  if (Object.values(rules).some(count => count > 0)) return rules;
  throw new ImageError('usage', 'nothing would be kept', {}, { hint: '--keep-last 7 --keep-weekly 4' });
}

const others = (count: number): string =>
  count === 1 ? 'another point, which is gone' : `${count} other points, which are gone`;

function show(set: string, plan: Plan, will: boolean, context: Context): void {
  const { decisions } = plan;
  if (context.json) {
    const list = decisions.map(({ point, keep, reason }) => ({ point: point.name, keep, reason }));
    context.outJson({ set, done: will, points: list });
    return;
  }
  const columns = ['POINT', 'TYPE', '', 'WHY'].map(title => ({ title }));
  const rows = decisions.map(({ point, keep, reason }) => [point.name, point.type, keep ? 'keep' : 'remove', reason]);
  context.out(table(columns, rows));
  if (will) return;
  const count = decisions.filter(one => !one.keep).length;
  context.note(count === 0 ? 'bootmount: nothing to remove' : `bootmount: nothing was changed: --yes removes ${count}`);
}

const count = (describe: string) => ({ type: 'number', default: 0, nargs: 1, describe }) as const;

export const command: Verb = {
  name: 'prune',
  positionals: '<repo>',
  summary: 'Remove restore points that no rule keeps; what newer ones need of them stays',
  example: 'bootmount prune /srv/backups --set web01 --keep-daily 7 --keep-weekly 4 --keep-monthly 12 --yes',
  build: yargs =>
    chainOptions(yargs)
      .option('keep-last', count('keep the newest N points'))
      .option('keep-daily', count('keep the newest point of N days'))
      .option('keep-weekly', count('keep the newest point of N weeks'))
      .option('keep-monthly', count('keep the newest point of N months'))
      .option('dry-run', { type: 'boolean', default: false, describe: 'only say what would be done (the default)' })
      .option('yes', { type: 'boolean', default: false, describe: 'do it' }),
  async run(args: PruneArgs, context) {
    refuseKeys(args);
    const rules = rulesOf(args);
    if (args.dryRun && args.yes) throw new ImageError('usage', '--dry-run and --yes exclude each other');
    await using chain = await openChainSet(args, context);
    const plan = planPrune(chain.set, rules, chain.clones);
    const will = args.yes && plan.steps.length > 0;
    if (!will || !context.json) show(chain.set.name, plan, will, context);
    if (!will) return;
    const bar: Bar = context.progress('pruning', plan.steps.length);
    try {
      await prune({
        plan,
        store: chain.store,
        format: chain.format,
        signal: context.signal,
        progress: done => bar.at(done),
        done(step) {
          const what =
            step.kind === 'drop'
              ? `${step.point.name} is removed`
              : `${step.points.at(-1)!.name} holds what it needs of ${others(step.points.length - 1)}`;
          context.note(display(`bootmount: ${what}`));
        },
      });
    } finally {
      bar.end();
    }
    if (context.json) show(chain.set.name, plan, true, context);
  },
};

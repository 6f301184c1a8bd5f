import { consolidate } from '../jobs/consolidate.ts';
import { type ChainArgs, chainOptions, openChainSet, refuseKeys } from './chain-set.ts';
import { display, formatDuration, formatSize, listNames } from './text.ts';
import type { Bar, Verb } from './verb.ts';

type ConsolidateArgs = ChainArgs & { readonly from: string; readonly to: string; readonly prune: boolean };

export const command: Verb = {
  name: 'consolidate',
  positionals: '<repo>',
  summary: 'Make one file of a range of restore points, without the key; the last point stays',
  example: 'bootmount consolidate /srv/backups --set web01 --from ~9 --to ~3',
  build: yargs =>
    chainOptions(yargs)
      .option('from', { type: 'string', nargs: 1, demandOption: true, describe: 'first point of the range' })
      .option('to', { type: 'string', nargs: 1, demandOption: true, describe: 'last point of the range, which stays' })
      .option('prune', {
        type: 'boolean',
        default: false,
        describe: 'leave out blocks that the last point has no use for (.bml files never keep them)',
      }),
  async run(args: ConsolidateArgs, context) {
    const begin = performance.now();
    refuseKeys(args);
    await using chain = await openChainSet(args, context);
    const { name } = chain.set;
    let bar: Bar = context.progress('', 0);
    let barTotal = -1;
    try {
      const result = await consolidate({
        ...chain,
        from: args.from,
        to: args.to,
        signal: context.signal,
        planned(gone, stays) {
          if (gone.length === 0) return;
          const names = listNames(gone.map(point => point.name));
          context.note(`bootmount: ${display(name)}@${stays.name} stays; these points go: ${display(names)}`);
        },
        progress(done, total) {
          if (total !== barTotal) bar = context.progress('consolidating', total);
          barTotal = total;
          bar.at(done);
        },
      });
      bar.end();
      const { built, records, bytes, removed, gone, point } = result;
      const names = gone.map(one => one.name);
      if (context.json) {
        context.outJson({
          set: name,
          point: point.name,
          file: point.file,
          gone: names,
          built,
          records,
          bytes,
          removed,
        });
        return;
      }
      const what = built
        ? `${records} records in ${formatSize(bytes)}, read back`
        : gone.length === 0
          ? 'nothing was left to do'
          : 'had everything already';
      const went = gone.length === 0 ? '' : `, ${gone.length} ${gone.length === 1 ? 'point' : 'points'} less`;
      context.out(display(`${name}@${point.name}: ${what}${went}, ${formatDuration(performance.now() - begin)}`));
    } finally {
      bar.end();
    }
  },
};

import { findSet } from '../chain/find.ts';
import type { BackupSet, RestorePoint } from '../chain/point.ts';
import { openRepo } from './open.ts';
import { type KeyArgs, keyOptions, keyring } from './secrets.ts';
import { display, formatSize, formatTime, table } from './text.ts';
import type { Context, Verb } from './verb.ts';

type LsArgs = KeyArgs & { readonly repo: string; readonly set?: string };

const pointJson = (point: RestorePoint): object => ({
  name: point.name,
  time: point.time?.toISOString() ?? null,
  type: point.type,
  disks: point.disks.map(({ name, size, stored }) => ({ name, size, stored })),
  state: point.state,
  ...(point.problem === null ? {} : { reason: point.problem.message }),
});

const setJson = (set: BackupSet): object => ({
  set: set.name,
  adapter: set.adapter,
  encrypted: set.encrypted,
  points: set.points.map(pointJson),
});

function setText(set: BackupSet): string {
  const rows = set.points.map(point => [
    point.name,
    point.type,
    point.time === null ? '-' : formatTime(point.time),
    point.disks.map(disk => `${disk.name} ${formatSize(disk.size)}`).join(', ') || '-',
    formatSize(point.disks.reduce((sum, disk) => sum + disk.stored, 0)),
    point.problem === null ? point.state : `${point.state}: ${point.problem.message}`,
  ]);
  const columns = [
    { title: '  POINT' },
    { title: 'TYPE' },
    { title: 'TIME' },
    { title: 'DISKS' },
    { title: 'STORED', right: true },
    { title: 'STATE' },
  ];
  const head = `${display(set.name)}  (${set.adapter}${set.encrypted ? ', encrypted' : ''})`;
  return `${head}\n${table(
    columns,
    rows.map(([name, ...rest]) => [`  ${name}`, ...rest]),
  )}`;
}

function tellUnknown(unknown: readonly string[], context: Context): void {
  if (unknown.length === 0) return;
  const files = unknown.length === 1 ? '1 file is' : `${unknown.length} files are`;
  context.note(`${files} of no known format${context.verbose ? `: ${unknown.map(display).join(', ')}` : ''}`);
}

export const command: Verb = {
  name: 'ls',
  positionals: '<repo> [set]',
  summary: 'List sets, restore points and disks, and what is broken or missing',
  example: 'bootmount ls /srv/backups web01',
  build: yargs =>
    keyOptions(
      yargs
        .positional('repo', { type: 'string', describe: 'folder of backups, or one backup file' })
        .positional('set', { type: 'string', describe: 'only this set' }),
    ),
  async run(args: LsArgs, context) {
    using keys = keyring(args, { ask: false });
    await using opened = await openRepo(args.repo, keys, context);
    const { repository } = opened;
    const sets = args.set === undefined ? repository.sets : [findSet(repository, args.set)];
    if (context.json) {
      context.outJson(sets.map(setJson));
      return;
    }
    tellUnknown(repository.unknown, context);
    context.out(sets.length === 0 ? 'no backups here' : sets.map(setText).join('\n\n'));
  },
};

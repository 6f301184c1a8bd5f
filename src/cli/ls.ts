import { ImageError } from '../base/errors.ts';
import { findSet } from '../chain/find.ts';
import type { BackupSet, RestorePoint } from '../chain/point.ts';
import { BATCH } from '../files/point-files.ts';
import { errorJsonOf, NODE_COLUMNS, nodeJson, nodeRow } from './node-text.ts';
import { openRepo } from './open.ts';
import { openPointReader } from './point-files.ts';
import { type KeyArgs, keyOptions, keyring, type VolumeKeyArgs, volumeKeyOption } from './secrets.ts';
import { display, formatSize, formatTime, table } from './text.ts';
import type { Context, Verb } from './verb.ts';

type LsArgs = KeyArgs & VolumeKeyArgs & { readonly what: string; readonly set?: string; readonly repo?: string };

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

/** `POINT:/path`: files inside a point, as `ls -l` has them. */
async function listFiles(place: string, repo: string, args: LsArgs, context: Context): Promise<void> {
  await using reader = await openPointReader({ ...args, repo }, context);
  const { node: top, name: its, files } = await reader.find(place, true);
  const names = top.kind === 'dir' ? (await top.list()).map(({ name }) => name).sort() : [its];
  const list: object[] = [];
  const rows: (readonly string[])[] = [];
  for (let from = 0; from < names.length; from += BATCH) {
    const batch = names.slice(from, from + BATCH);
    for (const [i, node] of (top.kind === 'dir' ? await top.children(batch) : [top]).entries()) {
      const name = batch[i]!;
      if (!(node instanceof ImageError)) {
        list.push(nodeJson(name, node));
        rows.push(nodeRow(name, node));
        continue;
      }
      context.exitCode(5);
      list.push(errorJsonOf(name, node));
      rows.push(['?', '', '', '', '', `${display(name)}  [${display(node.message)}]`]);
    }
  }
  if (its === '') {
    for (const note of files.notes) context.note(`bootmount: ${display(note)}`);
    for (const { name, reason } of files.locked) {
      context.note(`bootmount: ${display(name)} is locked: ${display(reason)} (--volume-key-file FILE)`);
    }
  }
  if (context.json) context.outJson(list);
  else if (rows.length > 0) context.out(table(NODE_COLUMNS, rows));
}

async function listSets(repo: string, args: LsArgs, context: Context): Promise<void> {
  using keys = keyring(args, { ask: false });
  await using opened = await openRepo(repo, keys, context);
  const { repository } = opened;
  const sets = args.set === undefined ? repository.sets : [findSet(repository, args.set)];
  if (context.json) {
    context.outJson(sets.map(setJson));
    return;
  }
  tellUnknown(repository.unknown, context);
  context.out(sets.length === 0 ? 'no backups here' : sets.map(setText).join('\n\n'));
}

export const command: Verb = {
  name: 'ls',
  positionals: '<what> [set]',
  summary: 'List sets, restore points and disks, and what is broken or missing; or the files inside a point',
  example: 'bootmount ls /srv/backups web01\n  bootmount ls web01@latest:/p2-ext4-root/etc --repo /srv/backups',
  build: yargs =>
    volumeKeyOption(
      keyOptions(
        yargs
          .positional('what', {
            type: 'string',
            describe: 'folder of backups, or one backup file; or POINT:/volume/path',
          })
          .positional('set', { type: 'string', describe: 'only this set; or POINT:/volume/path' })
          .option('repo', { type: 'string', nargs: 1, describe: 'folder of backups, where POINT:/path comes first' }),
      ),
    ),
  async run(args: LsArgs, context) {
    if (args.repo !== undefined) {
      if (args.set !== undefined) throw new ImageError('usage', 'the repository is given twice', { field: '--repo' });
      return args.what.includes(':/')
        ? listFiles(args.what, args.repo, args, context)
        : listSets(args.repo, { ...args, set: args.what }, context);
    }
    if (args.set?.includes(':/') === true) return listFiles(args.set, args.what, args, context);
    return listSets(args.what, args, context);
  },
};

import { ImageError } from '../base/errors.ts';
import { findSet } from '../chain/find.ts';
import { type FileVersion, historyOf } from '../files/history.ts';
import { nodeJson } from './node-text.ts';
import { openPointReader, type PointArgs, pointOptions, splitPlace } from './point-files.ts';
import { formatTime, table } from './text.ts';
import type { Verb } from './verb.ts';

const WORD: Readonly<Record<FileVersion['change'], string>> = {
  first: 'first seen',
  content: 'content changed',
  attributes: 'only attributes changed',
  absent: 'not there',
  appeared: 'appeared',
  unreadable: 'cannot be read',
};

function rowOf({ first, last, points, node, problem, change }: FileVersion): readonly string[] {
  const range = first === last ? first.name : `${first.name} … ${last.name}`;
  const size = node?.kind === 'file' ? String(node.size) : '-';
  const what = problem === null ? WORD[change] : `${WORD[change]}: ${problem.message}`;
  return [range, String(points), size, node === null ? '-' : formatTime(node.mtime), what];
}

const versionJson = (path: string, { first, last, points, node, problem, change }: FileVersion): object => ({
  first: first.name,
  last: last.name,
  points,
  change,
  ...(node === null ? {} : { file: nodeJson(path, node) }),
  ...(problem === null ? {} : { error: { fault: problem.fault, message: problem.message } }),
});

export const command: Verb = {
  name: 'history',
  positionals: '<path>',
  summary: 'Show every version of one file over all restore points of a set',
  example: 'bootmount history web01:/p2-ext4-root/etc/fstab --repo /srv/backups',
  build: yargs =>
    pointOptions(
      yargs.positional('path', { type: 'string', describe: 'SET:/volume/path, as below `files` in a mount' }),
    ),
  async run(args: PointArgs & { readonly path: string }, context) {
    const { point, path } = splitPlace(args.path);
    if (path.length === 0) throw new ImageError('usage', 'names no file', { file: args.path });
    if (point.includes('@')) {
      const hint = `bootmount history ${args.path.replace(/@[^:]*/, '')}`;
      throw new ImageError('usage', 'the history is that of a whole set', { file: args.path }, { hint });
    }
    await using reader = await openPointReader(args, context);
    const all = findSet(reader.repository, point).points;
    const points = all.filter(({ state }) => state === 'ok');
    if (points.length === 0) throw all[0]?.problem ?? new ImageError('not-found', 'the set has no restore points');
    const bar = context.progress('points', points.length);
    const { parser } = reader;
    const versions = await historyOf({ parser, points, path, signal: context.signal, progress: n => bar.at(n) });
    bar.end();
    if (versions.every(({ node, problem }) => node === null && problem === null)) {
      throw new ImageError('not-found', 'no such file or folder in any restore point', { file: args.path });
    }
    const missing = all.length - points.length;
    if (missing > 0) context.note(`bootmount: ${missing} restore points cannot be read and are left out`);
    if (versions.some(({ problem }) => problem !== null)) context.exitCode(5);
    if (context.json) context.outJson(versions.map(version => versionJson(path.join('/'), version)));
    else {
      const columns = [
        { title: 'POINTS' },
        { title: 'N', right: true },
        { title: 'SIZE', right: true },
        { title: 'CHANGED' },
        { title: 'WHAT' },
      ];
      context.out(table(columns, versions.map(rowOf)));
    }
  },
};

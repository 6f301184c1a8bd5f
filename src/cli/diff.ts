import { ImageError } from '../base/errors.ts';
import { findPoint } from '../chain/find.ts';
import type { RestorePoint } from '../chain/point.ts';
import { changesOf } from '../files/compare.ts';
import { type Difference, differencesOf } from '../files/differences.ts';
import { nodeAt } from '../files/path.ts';
import type { PointDir } from '../files/point-files.ts';
import { nodeJson } from './node-text.ts';
import { openPointReader, type PointArgs, type PointReader, pointOptions } from './point-files.ts';
import { display } from './text.ts';
import type { Context, Verb } from './verb.ts';

type DiffArgs = PointArgs & {
  readonly older: string;
  readonly newer: string;
  readonly path?: string;
  readonly content: boolean;
};

const SIGN = { added: '+', removed: '-', changed: '*', attributes: '~', unreadable: '!' } as const;

const differenceJson = ({ path, kind, before, after, problem }: Difference): object => ({
  path,
  kind,
  ...(before === null ? {} : { before: nodeJson(path, before) }),
  ...(after === null ? {} : { after: nodeJson(path, after) }),
  ...(problem === null ? {} : { error: { fault: problem.fault, message: problem.message } }),
});

/** The folder in a point. Volumes that cannot be read are told: their files would look as if they were gone. */
async function folderIn(
  reader: PointReader,
  point: RestorePoint,
  path: readonly string[],
  context: Context,
): Promise<PointDir> {
  const files = await reader.open(point);
  const locked = files.locked.map(({ name, reason }) => `${name} is locked: ${reason}`);
  for (const note of [...files.notes, ...locked]) context.note(`bootmount: ${display(`${point.name}: ${note}`)}`);
  const node = await nodeAt(files, path, true);
  if (node.kind !== 'dir') throw new ImageError('usage', 'is no folder', { file: path.join('/') });
  return node;
}

export const command: Verb = {
  name: 'diff',
  positionals: '<older> <newer> [path]',
  summary: 'Show which files were added, changed or removed between two restore points',
  example: 'bootmount diff web01@~1 web01@latest /p2-ext4-root/etc --repo /srv/backups',
  build: yargs =>
    pointOptions(
      yargs
        .positional('older', { type: 'string', describe: 'SET@POINT' })
        .positional('newer', { type: 'string', describe: 'SET@POINT' })
        .positional('path', { type: 'string', describe: 'only below /volume/path' }),
    ).option('content', {
      type: 'boolean',
      default: false,
      describe: 'also read files of the same size and time, where the backup does not record what changed',
    }),
  async run(args: DiffArgs, context) {
    await using reader = await openPointReader(args, context);
    const [a, b] = [findPoint(reader.repository, args.older), findPoint(reader.repository, args.newer)];
    const path = (args.path ?? '').split('/').filter(part => part !== '');
    const before = await folderIn(reader, a, path, context);
    const after = await folderIn(reader, b, path, context);
    const counts = { added: 0, removed: 0, changed: 0, attributes: 0, unreadable: 0 };
    const list: object[] = [];
    const spec = { changes: changesOf(a, b), content: args.content, signal: context.signal };
    for await (const difference of differencesOf(before, after, spec, path.join('/'))) {
      const { path: its, kind, problem, before: old, after: now } = difference;
      counts[kind]++;
      const folder = (now ?? old)?.kind === 'dir' ? '/' : '';
      if (context.json) list.push(differenceJson(difference));
      else
        context.out(
          `${SIGN[kind]} ${display(`/${its}${folder}`)}${problem === null ? '' : `  [${display(problem.message)}]`}`,
        );
    }
    if (counts.unreadable > 0) context.exitCode(5);
    if (context.json) context.outJson(list);
    else {
      const { added, changed, attributes, removed, unreadable } = counts;
      const damaged = unreadable > 0 ? `, ${unreadable} that cannot be read (!)` : '';
      context.note(
        `${added} added (+), ${changed} changed (*), ${attributes} with other attributes (~), ${removed} removed (-)${damaged}`,
      );
    }
  },
};

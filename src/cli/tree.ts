import { ImageError } from '../base/errors.ts';
import { walkBelow } from '../files/walk.ts';
import { errorJsonOf, nameText, nodeJson } from './node-text.ts';
import { openPointReader, PATH_HELP, type PointArgs, pointOptions } from './point-files.ts';
import { display } from './text.ts';
import type { Verb } from './verb.ts';

type TreeArgs = PointArgs & { readonly path: string; readonly depth?: number };

const counted = (n: number, one: string, many: string): string => `${n} ${n === 1 ? one : many}`;

export const command: Verb = {
  name: 'tree',
  positionals: '<path>',
  summary: 'Show the folders and files of a restore point as a tree',
  example: 'bootmount tree web01@latest:/p2-ext4-root/etc --repo /srv/backups --depth 2',
  build: yargs =>
    pointOptions(yargs.positional('path', { type: 'string', describe: PATH_HELP })).option('depth', {
      type: 'number',
      nargs: 1,
      describe: 'levels to go down',
    }),
  async run(args: TreeArgs, context) {
    const deepest = args.depth ?? Number.POSITIVE_INFINITY;
    if (!(deepest >= 1)) throw new ImageError('usage', 'at least 1 level', { field: '--depth' });
    await using reader = await openPointReader(args, context);
    const { node: top } = await reader.find(args.path, true);
    if (top.kind !== 'dir') throw new ImageError('usage', 'is no folder', { file: args.path });
    const list: object[] = [];
    const lines: string[] = [];
    const flush = (): void => {
      if (lines.length > 0) context.out(lines.splice(0).join('\n'));
    };
    const bars: string[] = [];
    let [folders, others, failures] = [0, 0, 0];
    if (!context.json) lines.push(display(args.path));
    for await (const { path, name, node, depth, last } of walkBelow(top, deepest)) {
      context.signal.throwIfAborted();
      if (node instanceof ImageError) failures++;
      else if (node.kind === 'dir') folders++;
      else others++;
      if (context.json) {
        list.push(node instanceof ImageError ? errorJsonOf(path, node) : nodeJson(path, node));
        continue;
      }
      const text = node instanceof ImageError ? `${display(name)}  [${display(node.message)}]` : nameText(name, node);
      lines.push(`${bars.slice(0, depth - 1).join('')}${last ? '└── ' : '├── '}${text}`);
      bars[depth - 1] = last ? '    ' : '│   ';
      if (lines.length >= 1000) flush();
    }
    if (failures > 0) context.exitCode(5);
    if (context.json) context.outJson(list);
    else {
      const failed = failures > 0 ? `, ${counted(failures, 'error', 'errors')}` : '';
      lines.push('', `${counted(folders, 'folder', 'folders')}, ${counted(others, 'file', 'files')}${failed}`);
      flush();
    }
  },
};

import { ImageError } from '../base/errors.ts';
import type { PointNode } from '../files/point-files.ts';
import { walkBelow } from '../files/walk.ts';
import { errorJsonOf, nodeJson } from './node-text.ts';
import { openPointReader, PATH_HELP, type PointArgs, pointOptions } from './point-files.ts';
import { display, parseSize } from './text.ts';
import type { Verb } from './verb.ts';

type FindArgs = PointArgs & {
  readonly path: string;
  readonly name?: string;
  readonly iname?: string;
  readonly type?: 'f' | 'd' | 'l';
  readonly newer?: string;
  readonly older?: string;
  readonly size?: string;
};

const KINDS = { f: 'file', d: 'dir', l: 'link' } as const;

const literal = (c: string): string => c.replace(/[\\^$.*+?()[\]{}|/]/, '\\$&');

/** A glob as the shell has it (`*`, `?`, `[a-z]`, `[!x]`, backslash), for the whole of a name. */
export function globOf(glob: string, anyCase: boolean): RegExp {
  let source = '';
  for (let i = 0; i < glob.length; i++) {
    const c = glob[i]!;
    const close = c === '[' ? glob.indexOf(']', i + (glob[i + 1] === '!' ? 3 : 2)) : -1;
    if (c === '*') source += '.*';
    else if (c === '?') source += '.';
    else if (close > 0) {
      const inner = glob
        .slice(i + 1, close)
        .replace(/^!/, '^')
        .replaceAll(/[\\[\]]/g, '\\$&');
      source += `[${inner}]`;
      i = close;
    } else source += literal(c === '\\' && i + 1 < glob.length ? glob[++i]! : c);
  }
  try {
    return new RegExp(`^${source}$`, anyCase ? 'isu' : 'su');
  } catch (cause) {
    throw new ImageError('usage', `${JSON.stringify(glob)} is no pattern`, { field: '--name' }, { cause });
  }
}

function timeOf(text: string, flag: string): number {
  const time = new Date(text).getTime();
  if (Number.isNaN(time)) {
    throw new ImageError('usage', `${JSON.stringify(text)} is no time such as 2026-11-20 or 2026-11-20T02:00:00Z`, {
      field: flag,
    });
  }
  return time;
}

type Test = (name: string, node: PointNode) => boolean;

/** `+1G` more than, `-1G` less than, `1G` exactly. */
function sizeTest(text: string): Test {
  const sign = text[0] === '+' || text[0] === '-' ? text[0] : '';
  const size = parseSize(text.slice(sign.length), '--size');
  return (_, node) =>
    node.kind === 'file' && (sign === '+' ? node.size > size : sign === '-' ? node.size < size : node.size === size);
}

function testsOf({ name, iname, type, newer, older, size }: FindArgs): readonly Test[] {
  const tests: Test[] = [];
  if (type !== undefined) tests.push((_, node) => node.kind === KINDS[type]);
  for (const [glob, anyCase] of [
    [name, false],
    [iname, true],
  ] as const) {
    if (glob === undefined) continue;
    const pattern = globOf(glob, anyCase);
    tests.push(its => pattern.test(its));
  }
  if (newer !== undefined) {
    const time = timeOf(newer, '--newer');
    tests.push((_, node) => node.mtime.getTime() > time);
  }
  if (older !== undefined) {
    const time = timeOf(older, '--older');
    tests.push((_, node) => node.mtime.getTime() < time);
  }
  if (size !== undefined) tests.push(sizeTest(size));
  return tests;
}

export const command: Verb = {
  name: 'find',
  positionals: '<path>',
  summary: 'Find files in a restore point by name, time, size or type',
  example: "bootmount find web01@latest:/p2-ext4-root --name '*.sql' --size +10M --repo /srv/backups",
  build: yargs =>
    pointOptions(yargs.positional('path', { type: 'string', describe: PATH_HELP }))
      .option('name', { type: 'string', nargs: 1, describe: 'pattern for the name, quoted: *.sql' })
      .option('iname', { type: 'string', nargs: 1, describe: 'the same, small or capital letters' })
      .option('type', { choices: ['f', 'd', 'l'] as const, nargs: 1, describe: 'file, folder or link' })
      .option('newer', {
        type: 'string',
        nargs: 1,
        describe: 'changed after this time: 2026-11-20, or with T02:00:00Z',
      })
      .option('older', { type: 'string', nargs: 1, describe: 'changed before this time' })
      .option('size', { type: 'string', nargs: 1, describe: '+1G more than, --size=-1G less than, 1G exactly' }),
  async run(args: FindArgs, context) {
    const tests = testsOf(args);
    await using reader = await openPointReader(args, context);
    const { node: top } = await reader.find(args.path, true);
    if (top.kind !== 'dir') throw new ImageError('usage', 'is no folder', { file: args.path });
    const base = args.path.replace(/\/+$/, '');
    const list: object[] = [];
    let failures = 0;
    for await (const { path, name, node } of walkBelow(top)) {
      context.signal.throwIfAborted();
      if (node instanceof ImageError) {
        failures++;
        if (context.json) list.push(errorJsonOf(path, node));
        else context.note(`bootmount: find: ${display(node.message)} (${display(path)})`);
      } else if (tests.every(test => test(name, node))) {
        if (context.json) list.push(nodeJson(path, node));
        else context.out(display(`${base}/${path}`));
      }
    }
    if (failures > 0) context.exitCode(5);
    if (context.json) context.outJson(list);
  },
};

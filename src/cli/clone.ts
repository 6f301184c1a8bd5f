import type { Argv } from 'yargs';
import { ImageError } from '../base/errors.ts';
import { diskFormats } from '../registry.ts';
import { askControl } from '../server/control.ts';
import { mountpointPath, runPaths } from '../server/paths.ts';
import type { ControlRequest, MountStatus } from '../server/protocol.ts';
import type { CloneRecord, CloneSummary } from '../tree/clones.ts';
import { display, table } from './text.ts';
import type { Context, Verb } from './verb.ts';

type CloneArgs = {
  readonly mountpoint: string;
  readonly point?: string;
  readonly name?: string;
  readonly format: string;
  readonly list: boolean;
  readonly delete?: string;
  readonly reset?: string;
};

/** `SET@POINT` of a clone, as far as it is known. */
export const baseOf = ({ set, point }: CloneSummary): string => (set === null ? '-' : `${set}@${point}`);

function showList(status: MountStatus, context: Context): void {
  if (context.json) {
    context.outJson(status.clones);
    return;
  }
  const columns = [{ title: 'CLONE' }, { title: 'OF' }, { title: 'FORMAT' }, { title: 'CREATED' }, { title: 'STATE' }];
  const rows = status.clones.map(c => {
    const state = c.reason ?? (c.open.length > 0 ? `open: ${c.open.join(', ')}` : c.state);
    return [c.name, baseOf(c), c.format ?? '-', c.created ?? '-', state];
  });
  context.out(table(columns, rows));
}

export const command: Verb = {
  name: 'clone',
  positionals: '<mountpoint> [point] [name]',
  summary: 'Make a writable clone of a restore point; the backup stays as it is',
  example: 'bootmount clone /mnt/backups web01@latest test --format qcow2',
  build: (yargs: Argv) =>
    yargs
      .positional('mountpoint', { type: 'string', demandOption: true, describe: 'an existing mount' })
      .positional('point', { type: 'string', describe: 'SET@POINT' })
      .positional('name', { type: 'string', describe: 'name of the clone' })
      .option('format', {
        type: 'string',
        nargs: 1,
        default: 'raw',
        choices: diskFormats.map(({ name }) => name),
        describe: 'the view that can be written',
      })
      .option('list', { type: 'boolean', default: false, describe: 'show the clones' })
      .option('delete', { type: 'string', describe: 'delete this clone and what was written to it' })
      .option('reset', { type: 'string', describe: 'take this clone back to its restore point' }),
  async run(raw, context) {
    const args = raw as unknown as CloneArgs;
    const socket = runPaths(mountpointPath(args.mountpoint)).socket;
    const ask = (request: ControlRequest): Promise<unknown> => askControl(socket, request, args.mountpoint);
    if (args.list) return showList((await ask({ verb: 'status' })) as MountStatus, context);
    const done = (what: string, value: unknown): void => (context.json ? context.outJson(value) : context.note(what));
    const chosen = args.delete ?? args.reset;
    if (chosen !== undefined) {
      const name = chosen || args.name || args.point;
      if (name === undefined)
        throw new ImageError('usage', 'which clone?', {}, { hint: 'bootmount clone MNT --delete NAME' });
      await ask(args.delete === undefined ? { verb: 'clone-reset', name } : { verb: 'clone-delete', name });
      return done(
        `clone ${display(name)} ${args.delete === undefined ? 'is back at its restore point' : 'is deleted'}`,
        { name },
      );
    }
    if (args.point === undefined || args.name === undefined) {
      throw new ImageError(
        'usage',
        'a restore point and a name are needed',
        {},
        { hint: 'bootmount clone MNT SET@POINT NAME' },
      );
    }
    const record = (await ask({
      verb: 'clone',
      request: { point: args.point, name: args.name, format: args.format },
    })) as CloneRecord;
    done(`clone ${record.name} of ${display(`${record.set}@${record.point}`)}, written as ${record.format}`, record);
  },
};

import fs from 'node:fs';
import path from 'node:path';
import { ImageError } from '../base/errors.ts';
import type { PointNode } from '../files/point-files.ts';
import { walkBelow } from '../files/walk.ts';
import { CopiedLinks } from './copy-links.ts';
import { type Copied, copyNode, nothingCopied } from './copy-out.ts';
import { openPointReader, PATH_HELP, type PointArgs, pointOptions } from './point-files.ts';
import { display, formatSize } from './text.ts';
import type { Context, Verb } from './verb.ts';

type CpArgs = PointArgs & {
  readonly path: string;
  readonly target: string;
  readonly recursive: boolean;
  readonly owners: boolean;
  readonly devices: boolean;
  readonly streams: boolean;
};

/** Into an existing folder under the name it has, else under the name that was given. */
function targetOf(target: string, name: string): { readonly folder: string; readonly name: string } {
  const stat = fs.statSync(target, { throwIfNoEntry: false });
  if (stat?.isDirectory() === true && name !== '') return { folder: target, name };
  if (stat?.isDirectory() !== true && /\/\.?$/.test(target)) {
    throw new ImageError('not-found', 'no such folder to copy into', { file: target });
  }
  const whole = path.resolve(target);
  return { folder: path.dirname(whole), name: path.basename(whole) };
}

/** Bytes to copy, for the bar; a terminal that shows none is not worth the walk. */
async function sizeOf(node: PointNode, signal: AbortSignal): Promise<number> {
  if (node.kind === 'file') return node.size;
  if (node.kind !== 'dir' || process.stderr.isTTY !== true) return 0;
  let bytes = 0;
  for await (const { node: its } of walkBelow(node)) {
    signal.throwIfAborted();
    if (!(its instanceof ImageError) && its.kind === 'file') bytes += its.size;
  }
  return bytes;
}

function checked(args: CpArgs, node: PointNode): void {
  if (node.kind === 'dir' && !args.recursive) {
    const hint = '-r copies folders with all they hold';
    throw new ImageError('usage', 'is a folder', { file: args.path }, { hint });
  }
  if (process.geteuid?.() === 0) return;
  if (args.owners) throw new ImageError('usage', 'only root may give files to their owners', { field: '--owners' });
  if (args.devices) throw new ImageError('usage', 'only root may make devices', { field: '--devices' });
}

interface Failure {
  readonly path: string;
  readonly fault: string;
  readonly message: string;
}

function tell(done: Copied, failures: readonly Failure[], context: Context): void {
  if (failures.length > 0) context.exitCode(failures.some(({ fault }) => fault === 'corrupt') ? 5 : 1);
  if (context.json) {
    context.outJson({ ...done, failures });
    return;
  }
  const kept = done.kept > 0 ? `, ${done.kept} there already` : '';
  const links = done.links > 0 ? `, ${done.links} more names of them` : '';
  const skipped = done.skipped > 0 ? `, ${done.skipped} devices, pipes or sockets left out` : '';
  const streams = done.streams > 0 ? `, ${done.streams} alternate streams left out (--streams)` : '';
  const attributes = done.attributes > 0 ? `, ${done.attributes} extended attributes not kept` : '';
  const failed = failures.length > 0 ? `, ${failures.length} failed` : '';
  const rest = `${links}${kept}${skipped}${streams}${attributes}${failed}`;
  context.out(`${done.files} copied, ${formatSize(done.bytes)}${rest}`);
}

export const command: Verb = {
  name: 'cp',
  positionals: '<path> <target>',
  summary: 'Copy files or folders out of a restore point, without mounting it; the same command again goes on',
  example: 'bootmount cp -r web01@latest:/p2-ext4-root/etc ./etc-from-backup --repo /srv/backups',
  build: yargs =>
    pointOptions(
      yargs
        .positional('path', { type: 'string', describe: PATH_HELP })
        .positional('target', { type: 'string', describe: 'file to make, or folder to copy into' })
        .option('recursive', { alias: 'r', type: 'boolean', default: false, describe: 'folders with all they hold' })
        .option('owners', {
          type: 'boolean',
          default: false,
          describe: 'give files to their owners by number, with access lists and trusted attributes (root)',
        })
        .option('devices', { type: 'boolean', default: false, describe: 'make devices, pipes and sockets (root)' })
        .option('streams', {
          type: 'boolean',
          default: false,
          describe: 'copy alternate data streams too, as FILE:STREAM beside their file',
        }),
    ),
  async run(args: CpArgs, context) {
    await using reader = await openPointReader(args, context);
    const { point, node, name } = await reader.find(args.path, !args.recursive);
    checked(args, node);
    const target = targetOf(args.target, name);
    const done = nothingCopied();
    const failures: Failure[] = [];
    const folder = fs.openSync(target.folder, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY);
    const bar = context.progress('copying', await sizeOf(node, context.signal));
    try {
      await copyNode(
        node,
        { folder, name: target.name, path: target.name },
        {
          signal: context.signal,
          identity: `${point.identity} ${args.path}`,
          owners: args.owners,
          devices: args.devices,
          streams: args.streams,
          links: new CopiedLinks(folder),
          skipped: (file, what) => context.note(`bootmount: cp: left out: ${display(file)} is ${what}`),
          progress: bytes => bar.at(bytes),
          failed(file, error) {
            failures.push({ path: file, fault: error.fault, message: error.message });
            context.note(`bootmount: cp: ${display(error.message)} (${display(file)})`);
          },
        },
        done,
      );
    } catch (error) {
      bar.end();
      context.note('bootmount: what was copied is kept: the same command goes on');
      throw error;
    } finally {
      fs.closeSync(folder);
      bar.end();
    }
    tell(done, failures, context);
  },
};

import fs from 'node:fs';
import path from 'node:path';
import { ImageError } from '../base/errors.ts';
import { type Copied, copyNode } from './copy-out.ts';
import { openPointFiles, PATH_HELP, type PointArgs, pointOptions } from './point-files.ts';
import { keyring } from './secrets.ts';
import { display, formatSize } from './text.ts';
import type { Verb } from './verb.ts';

type CpArgs = PointArgs & { readonly path: string; readonly target: string; readonly recursive: boolean };

/** Into an existing folder under the name it has, else under the name that was given. */
function targetOf(target: string, name: string): { readonly folder: string; readonly name: string } {
  const stat = fs.statSync(target, { throwIfNoEntry: false });
  if (stat?.isDirectory() === true && name !== '') return { folder: target, name };
  const whole = path.resolve(target);
  return { folder: path.dirname(whole), name: path.basename(whole) };
}

export const command: Verb = {
  name: 'cp',
  positionals: '<path> <target>',
  summary: 'Copy files or folders out of a restore point, without mounting it; into the same folder again goes on',
  example: 'bootmount cp -r web01@latest:/p2-ext4-root/etc ./etc-from-backup --repo /srv/backups',
  build: yargs =>
    pointOptions(
      yargs
        .positional('path', { type: 'string', describe: PATH_HELP })
        .positional('target', { type: 'string', describe: 'file to make, or folder to copy into' })
        .option('recursive', { alias: 'r', type: 'boolean', default: false, describe: 'folders with all they hold' }),
    ),
  async run(args: CpArgs, context) {
    using keys = keyring(args, { ask: true });
    await using files = await openPointFiles(args.path, args, keys, context);
    const { node, name } = await files.find(!args.recursive);
    if (node.kind === 'dir' && !args.recursive) {
      throw new ImageError(
        'usage',
        'is a folder',
        { file: args.path },
        { hint: '-r copies folders with all they hold' },
      );
    }
    const target = targetOf(args.target, name);
    const done: Copied = { files: 0, bytes: 0, kept: 0, skipped: 0 };
    const failures: { readonly path: string; readonly fault: string; readonly message: string }[] = [];
    const bar = context.progress('copying', node.kind === 'file' ? node.size : 0);
    const folder = fs.openSync(target.folder, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY);
    try {
      await copyNode(
        async () => node,
        folder,
        target.name,
        target.name,
        {
          signal: context.signal,
          progress: bytes => bar.at(bytes),
          failed(file, error) {
            failures.push({ path: file, fault: error.fault, message: error.message });
            context.note(`bootmount: cp: ${display(error.message)} (${display(file)})`);
          },
        },
        done,
      );
    } finally {
      fs.closeSync(folder);
      bar.end();
    }
    if (failures.length > 0) context.exitCode(failures.some(({ fault }) => fault === 'corrupt') ? 5 : 1);
    if (context.json) context.outJson({ ...done, failures });
    else {
      const kept = done.kept > 0 ? `, ${done.kept} there already` : '';
      const skipped = done.skipped > 0 ? `, ${done.skipped} devices, pipes or sockets left out` : '';
      const failed = failures.length > 0 ? `, ${failures.length} failed` : '';
      context.out(`${done.files} copied, ${formatSize(done.bytes)}${kept}${skipped}${failed}`);
    }
  },
};

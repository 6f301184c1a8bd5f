import type { Argv } from 'yargs';
import { ImageError } from '../base/errors.ts';
import { isDead, mountsOf, unmount } from '../host/fuse/mount.ts';
import { askControl } from '../server/control.ts';
import { releaseMountpoint } from '../server/guard.ts';
import { openFilesBelow } from '../server/open-files.ts';
import { mountpointPath, runPaths } from '../server/paths.ts';
import type { Verb } from './verb.ts';

type UmountArgs = { readonly mountpoint: string; readonly force: boolean; readonly release: boolean };

function busy(at: string, cause: ImageError): ImageError {
  // This program, and on an older Node the one that started it, stand in the folder that the user stands in.
  const own = [process.pid, process.ppid].map(pid => `(${pid}): ${process.cwd()}`);
  const who = openFilesBelow(at).filter(line => !own.some(end => line.endsWith(end)));
  const message = who.length === 0 ? 'something below it is in use' : `in use by ${who.join(', ')}`;
  return new ImageError(
    'busy',
    message,
    { file: at },
    { cause, hint: 'end that first, or use --force to detach it now' },
  );
}

export const command: Verb = {
  name: 'umount',
  positionals: '<mountpoint>',
  summary: 'Make every clone durable and end a mount',
  example: 'bootmount umount /mnt/backups',
  build: (yargs: Argv) =>
    yargs
      .positional('mountpoint', { type: 'string', demandOption: true, describe: 'where it is mounted' })
      .option('force', { type: 'boolean', default: false, describe: 'detach at once even if files are open' })
      .option('release', {
        type: 'boolean',
        default: false,
        describe: 'also let the bare directory be written to and removed again',
      }),
  async run(raw, context) {
    const args = raw as unknown as UmountArgs;
    const at = mountpointPath(args.mountpoint);
    try {
      await askControl(runPaths(at).socket, { verb: 'umount', force: args.force }, args.mountpoint);
    } catch (error) {
      if (error instanceof ImageError && error.fault === 'busy') throw busy(at, error);
      // Nobody answers, but the kernel still has the mount.
      const there = error instanceof ImageError && error.fault === 'not-found' && mountsOf(at).length > 0;
      if (!there) throw error;
      const dead = isDead(at);
      await unmount(at, { lazy: dead || args.force });
      const how = dead
        ? 'was dead; it is detached'
        : 'was asked without its control socket, which is gone; it ends by itself';
      context.note(`bootmount: the mount ${how}`);
    }
    if (args.release) releaseMountpoint(at);
    if (context.json) context.outJson({ mount: at });
  },
};

import type { Argv } from 'yargs';
import { askControl } from '../server/control.ts';
import { mountpointPath, runPaths } from '../server/paths.ts';
import type { Verb } from './verb.ts';

export const command: Verb = {
  name: 'upgrade',
  positionals: '<mountpoint>',
  summary: 'Go on serving a mount with the program as it is installed now; open files stay open',
  example: 'bootmount upgrade /mnt/backups',
  build: (yargs: Argv) =>
    yargs.positional('mountpoint', { type: 'string', demandOption: true, describe: 'an existing mount' }),
  async run(raw, context) {
    const { mountpoint } = raw as { mountpoint: string };
    const at = mountpointPath(mountpoint);
    await askControl(runPaths(at).socket, { verb: 'upgrade' }, mountpoint);
    if (context.json) context.outJson({ mount: at });
    else context.note(`${mountpoint} is served by the program as it is installed now`);
  },
};

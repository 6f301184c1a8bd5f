import { once } from 'node:events';
import { ImageError } from '../base/errors.ts';
import type { FileContent } from '../files/content.ts';
import { openPointReader, PATH_HELP, type PointArgs, pointOptions } from './point-files.ts';
import type { Verb } from './verb.ts';

const PART = 1_048_576;

/** Waits while the reader of the output is behind; ends in silence when it has gone away. */
async function print(content: FileContent, signal: AbortSignal): Promise<void> {
  for (let at = 0; at < content.size && process.stdout.writable; at += PART) {
    signal.throwIfAborted();
    const part = new Uint8Array(Math.min(PART, content.size - at));
    await content.read(part, at);
    if (!process.stdout.write(part)) await Promise.race([once(process.stdout, 'drain'), once(process.stdout, 'close')]);
  }
}

export const command: Verb = {
  name: 'cat',
  positionals: '<path..>',
  summary: 'Print files out of a restore point, without mounting it',
  example: 'bootmount cat web01@latest:/p2-ext4-root/etc/fstab --repo /srv/backups',
  build: yargs => pointOptions(yargs.positional('path', { type: 'string', array: true, describe: PATH_HELP })),
  async run(args: PointArgs & { readonly path: readonly string[] }, context) {
    await using reader = await openPointReader(args, context);
    for (const path of args.path) {
      const { node } = await reader.find(path, true);
      if (node.kind !== 'file') throw new ImageError('usage', 'is no file', { file: path });
      await print(await node.open(), context.signal);
    }
  },
};

/** Where what is compressed as a whole is unpacked, for verbs that read backups by themselves. */
import path from 'node:path';
import type { Argv } from 'yargs';
import type { Bytes } from '../base/contracts.ts';
import { scratchFolder } from '../server/paths.ts';
import { type LocalScratch, localScratch } from '../stores/scratch.ts';
import { display, parseSize } from './text.ts';
import type { Bar, Context } from './verb.ts';

/** What `scratchOptions` declares. */
export type ScratchArgs = {
  readonly scratch?: string | undefined;
  readonly scratchSize?: string | undefined;
};

export const scratchOptions = (yargs: Argv): Argv =>
  yargs
    .option('scratch', { type: 'string', nargs: 1, describe: 'folder to unpack compressed backups into' })
    .option('scratch-size', {
      type: 'string',
      nargs: 1,
      describe: 'the most that unpacked backups may take (default: what is free there)',
    });

export const SCRATCH_HINT = 'more room: --scratch DIR, or a higher --scratch-size SIZE';

export const scratchLimit = ({ scratchSize }: ScratchArgs): Bytes | null =>
  scratchSize === undefined ? null : parseSize(scratchSize, '--scratch-size');

/** The flags that say the same again. */
export const scratchFlags = ({ scratch, scratchSize }: ScratchArgs): readonly string[] => [
  ...(scratch === undefined ? [] : ['--scratch', path.resolve(scratch)]),
  ...(scratchSize === undefined ? [] : ['--scratch-size', scratchSize]),
];

/** What a mount of the repository unpacked is used; what is unpacked here is removed at the end. */
export function verbScratch(repo: string, args: ScratchArgs, context: Context): LocalScratch {
  const bars = new Map<string, Bar>();
  return localScratch({
    folder: args.scratch === undefined ? scratchFolder(repo) : path.resolve(args.scratch),
    most: scratchLimit(args),
    keep: false,
    hint: SCRATCH_HINT,
    progress(name, done, total) {
      const bar = bars.get(name) ?? context.progress(`unpacking ${display(path.basename(name))}`, total);
      bars.set(name, bar);
      bar.at(done);
      if (done < total) return;
      bar.end();
      bars.delete(name);
    },
  });
}

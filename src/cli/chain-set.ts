/** What the verbs that change a set's files share: no key, a folder to write to, and the format that does the work. */
import fs from 'node:fs';
import type { Argv } from 'yargs';
import type { WritableStore } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { findSet } from '../chain/find.ts';
import type { BackupSet } from '../chain/point.ts';
import type { ChainFormat, ClonePin } from '../jobs/consolidate.ts';
import { chainFormats } from '../registry.ts';
import { stateFolder } from '../server/paths.ts';
import { localWritableStore } from '../stores/local.ts';
import { openRepo } from './open.ts';
import { clonesIn } from './pins.ts';
import { type KeyArgs, keyOptions } from './secrets.ts';
import type { Context } from './verb.ts';

export type ChainArgs = KeyArgs & { readonly repo: string; readonly set: string; readonly state?: string };

export const chainOptions = (yargs: Argv): Argv =>
  keyOptions(
    yargs
      .positional('repo', { type: 'string', describe: 'folder of backups' })
      .option('set', { type: 'string', nargs: 1, demandOption: true, describe: 'name of the set' })
      .option('state', { type: 'string', nargs: 1, describe: "state folder of the repository's clones" }),
  )
    .hide('key-file')
    .hide('key-fd')
    .hide('key-command');

/** A key on the machine that consolidates would be a risk for nothing. */
export function refuseKeys(args: KeyArgs): void {
  if (args.keyFile === undefined && args.keyFd === undefined && args.keyCommand === undefined) return;
  const message = 'takes no key and needs none: stored blocks are moved as they are';
  throw new ImageError('usage', message, { field: '--key-file' }, { hint: 'leave the key out' });
}

export interface ChainSet extends AsyncDisposable {
  readonly set: BackupSet;
  readonly store: WritableStore;
  readonly format: ChainFormat;
  readonly clones: readonly ClonePin[];
}

/** The set as it is without a key, with all that pins its points. */
export async function openChainSet(args: ChainArgs, context: Context): Promise<ChainSet> {
  const stat = fs.statSync(args.repo, { throwIfNoEntry: false });
  if (stat?.isDirectory() === false)
    throw new ImageError('usage', 'a folder of backups is needed', { file: args.repo });
  const clones = clonesIn(args.state ?? stateFolder(args.repo));
  await using opening = new AsyncDisposableStack();
  const { repository } = opening.use(await openRepo(args.repo, { secrets: async () => [] }, context));
  const set = findSet(repository, args.set);
  const format = chainFormats[set.adapter];
  if (format === undefined || set.points.some(point => point.adapter !== set.adapter)) {
    const names = Object.keys(chainFormats).join(', ');
    throw new ImageError('unsupported', `${set.name} is a set of ${set.adapter} images; only ${names} can do this`);
  }
  const store = localWritableStore(args.repo);
  const opened = opening.move();
  return { set, store, format, clones, [Symbol.asyncDispose]: () => opened.disposeAsync() };
}

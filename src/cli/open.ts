/** Opening a repository for a verb, with what is wrong with its files told on stderr. */
import type { Keyring, Scratch, Store } from '../base/contracts.ts';
import { UnitCache } from '../chain/cache.ts';
import type { Repository } from '../chain/point.ts';
import { DEFAULT_CACHE, openRepository } from '../chain/repository.ts';
import { openStore } from '../stores/open.ts';
import { type ScratchArgs, verbScratch } from './scratch.ts';
import { display } from './text.ts';
import type { Context } from './verb.ts';

export interface Opened extends AsyncDisposable {
  readonly store: Store;
  readonly repository: Repository;
  readonly scratch: Scratch;
}

/** `repo`: as the user names it. 'not-found' when there is nothing. */
export async function openRepo(repo: string, keys: Keyring, context: Context, args: ScratchArgs = {}): Promise<Opened> {
  await using opening = new AsyncDisposableStack();
  const store = opening.use(await openStore(repo));
  const scratch = opening.use(verbScratch(repo, args, context));
  const cache = new UnitCache(DEFAULT_CACHE, true);
  const repository = opening.use(await openRepository(store, await context.adapters(), keys, { scratch, cache }));
  for (const warning of repository.warnings) context.note(`bootmount: warning: ${display(warning)}`);
  const opened = opening.move();
  return { store, repository, scratch, [Symbol.asyncDispose]: () => opened.disposeAsync() };
}

import type { Store, StoreEntry } from './contracts.ts';

/** Files directly in a folder ('' for the top), also of a store that was opened for one of them. */
export async function* filesIn(store: Store, folder: string): AsyncIterable<StoreEntry> {
  const start = folder === '' ? 0 : folder.length + 1;
  const all = store.beside?.(folder) ?? store.list(folder, () => true);
  for await (const entry of all) {
    if (entry.name.startsWith(folder) && !entry.name.includes('/', start)) yield entry;
  }
}

/** Whether a point was made on the point that is there: an older file put back under a newer one is noticed (section 13). */
import { ImageError } from '../../src/base/errors.ts';
import { type PlacedCommit, readCommit } from './commit.ts';
import type { Opened } from './read.ts';
import { corrupt, hex, sameBytes } from './structs.ts';

/** Compares the parent's commit, in whichever file of the folder it lies, with what the child recorded of it. */
export async function checkDescent({ shelf, file }: Opened, commit: PlacedCommit): Promise<void> {
  if (commit.parent.every(byte => byte === 0)) return;
  const id = hex(commit.parent);
  for (const holder of await shelf.find(file.name, file.setId, new Map([[id, '']]))) {
    const parent = await commitIn(shelf, holder.name, id);
    // A file that holds the layer without its commit is a consolidated one: the point itself is gone.
    if (parent === null) continue;
    if (sameBytes(parent.hash, commit.parentHash) && parent.sequence + 1 === commit.sequence) continue;
    const message = `commit: it was made on another version of layer ${id} than the one in ${holder.name}`;
    throw corrupt(message, file.name, commit.at);
  }
}

async function commitIn(shelf: Opened['shelf'], name: string, layer: string): Promise<PlacedCommit | null> {
  try {
    const { tail } = await shelf.identify(name);
    const place = tail.commits.find(one => hex(one.layer) === layer);
    return place === undefined ? null : await shelf.use(name, source => readCommit(source, place));
  } catch (error) {
    // What is wrong with that file is found when it is checked itself.
    if (error instanceof ImageError) return null;
    throw error;
  }
}

/** Which files of a folder need layers that are about to go. What cannot be read may need them: it is named, and nothing goes. */
import type { Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { readCommit } from './commit.ts';
import type { SetFile, Shelf } from './shelf.ts';
import { hex } from './structs.ts';
import { readTable } from './table-read.ts';

const folderOf = (name: string): string => name.slice(0, name.lastIndexOf('/') + 1);

const FOREIGN = ['not-this-format', 'not-found'];

/**
 * Throws 'usage' for the first file beside `beside`, other than `except`, with a point that refers to one of `layers` (ids in
 * hexadecimal) and does not build on `heir`, whose file keeps what it refers to. Throws too when a file cannot be read.
 */
export async function refuseDependents(
  store: Store,
  shelf: Shelf,
  spec: {
    readonly beside: string;
    readonly setId: string;
    readonly except: ReadonlySet<string>;
    readonly layers: ReadonlySet<string>;
    readonly heir: string | null;
  },
): Promise<void> {
  const folder = folderOf(spec.beside);
  for await (const { name } of store.list(folder.slice(0, -1))) {
    if (folderOf(name) !== folder || !name.endsWith('.bml') || spec.except.has(name)) continue;
    const layer = await neededBy(shelf, name, spec);
    if (layer === null) continue;
    const message = `${name} builds on layer ${layer}, which would be gone`;
    throw new ImageError('usage', message, { file: name }, { hint: 'consolidate up to where it branches off' });
  }
}

/**
 * The point (id of its layer) whose file holds all layers of `file` as well: a consolidation into it was stopped before the
 * file was removed. null: there is none.
 */
export async function heirOf(store: Store, shelf: Shelf, file: SetFile): Promise<string | null> {
  const folder = folderOf(file.name);
  for await (const { name } of store.list(folder.slice(0, -1))) {
    if (folderOf(name) !== folder || !name.endsWith('.bml') || name === file.name) continue;
    try {
      const { file: other, tail } = await shelf.identify(name);
      const [place] = tail.commits;
      const all = other.setId === file.setId && [...file.layers].every(id => other.layers.has(id));
      if (all && tail.total === 1 && place !== undefined && tail.warning === null) return hex(place.layer);
    } catch (error) {
      // It is named, and in the way, when it is looked at for what it needs.
      if (!(error instanceof ImageError)) throw error;
    }
  }
  return null;
}

async function neededBy(
  shelf: Shelf,
  name: string,
  spec: { readonly setId: string; readonly layers: ReadonlySet<string>; readonly heir: string | null },
): Promise<string | null> {
  try {
    const { file, tail } = await shelf.identify(name);
    if (file.setId !== spec.setId) return null;
    for (const place of tail.commits) {
      const commit = await shelf.use(name, source => readCommit(source, place));
      const lines = await readTable(file, commit);
      if (lines.some(line => line.id === spec.heir)) continue;
      const needed = lines.find(line => line.live > 0 && spec.layers.has(line.id) && !file.layers.has(line.id));
      if (needed !== undefined) return needed.id;
      // Nothing of it is referred to, but the point was made on it: its branch would hang in the air. What lay between the
      // two may have been consolidated into the file.
      const under = lines.slice(0, commit.ownLine).findLast(line => !file.layers.has(line.id));
      if (under !== undefined && spec.layers.has(under.id)) return under.id;
    }
    return null;
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    if (FOREIGN.includes(error.fault)) return null;
    const message = `${name} cannot be read, so nothing says what it builds on: ${error.message}`;
    throw new ImageError('corrupt', message, error.where, {
      cause: error,
      hint: 'run verify; a file that is beyond repair has to be moved away first',
    });
  }
}

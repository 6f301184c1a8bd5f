/** The layer table of a commit: looked over when a file is opened, read when the first block is asked for. */
import { ImageError } from '../../src/base/errors.ts';
import { isZero } from '../../src/base/range.ts';
import { type PlacedCommit, readCommit } from './commit.ts';
import type { SetKeys } from './crypto.ts';
import type { LayerFiles } from './layer-files.ts';
import { missing, type Objects } from './objects.ts';
import { bodyFits, headerFits } from './record.ts';
import type { SetFile, Shelf } from './shelf.ts';
import { type Cipher, corrupt, RECORD_HEADER, recordHeader, sameBytes, tableLine } from './structs.ts';
import { type Line, lostLines, parseTable, tableHash } from './table.ts';

/** Memory for looking over a table: there is one for each point of a set. */
let spare: Uint8Array = new Uint8Array(0);

/** The table's body, checked against the digest that the commit holds; in `into` when it has the room. */
async function readBody(file: SetFile, commit: PlacedCommit, into: Uint8Array): Promise<Uint8Array> {
  const { tableAt } = commit;
  const length = commit.lines * tableLine.size + commit.names;
  if (commit.tableStored !== length || tableAt + RECORD_HEADER + length > file.size) {
    throw corrupt('layer table: its length or place is wrong', file.name, tableAt);
  }
  const whole = RECORD_HEADER + length;
  const record = (into.length >= whole ? into : new Uint8Array(2 ** Math.ceil(Math.log2(whole)))).subarray(0, whole);
  await file.read(record, tableAt);
  const header = recordHeader.parse(record, 0, file.name);
  const body = record.subarray(RECORD_HEADER);
  const sound = headerFits(record) && header.kind === 'metadata' && header.stored === length;
  const same = sound && sameBytes(tableHash(body), commit.tableHash);
  if (!sound || !bodyFits(record)) throw corrupt('layer table: the record fails its checksum', file.name, tableAt);
  if (!same) throw corrupt('layer table: fails its hash', file.name, tableAt);
  const own = commit.ownLine * tableLine.size;
  if (!sameBytes(body.subarray(own, own + commit.layer.length), commit.layer)) {
    throw corrupt('layer table: the commit names another layer as its own', file.name, tableAt);
  }
  checkParent(body, file, commit);
  return body;
}

/** A table has the lines of the parent's in front of its own: so no point is made on itself. */
function checkParent(body: Uint8Array, file: SetFile, { parent, ownLine, at }: PlacedCommit): void {
  if (isZero(parent)) return;
  for (let line = ownLine - 1; line >= 0; line--) {
    const id = body.subarray(line * tableLine.size, line * tableLine.size + parent.length);
    if (sameBytes(id, parent)) return;
  }
  throw corrupt('commit: its parent is not among the layers before it', file.name, at);
}

/** The layer table of a commit, checked against the digest that the commit holds. */
export async function readTable(file: SetFile, commit: PlacedCommit): Promise<readonly Line[]> {
  const body = await readBody(file, commit, spare.subarray(0, 0));
  return parseTable(body, commit.lines, file.name, commit.tableAt);
}

/** Throws what is wrong with the table of a commit, and 'broken-chain' for a needed layer that no file of the folder holds. */
export async function checkTable(shelf: Shelf, file: SetFile, commit: PlacedCommit): Promise<void> {
  const into = spare;
  // Whoever comes meanwhile has memory of its own.
  spare = new Uint8Array(0);
  const body = await readBody(file, commit, into);
  const lost = (): readonly Line[] => {
    const files = shelf.layersBeside(file.name, file.setId);
    const held = (view: DataView, at: number): boolean => files.at(view, at).length > 0;
    return lostLines(body, commit.lines, file.name, commit.tableAt, held);
  };
  const wanted = lost();
  if (wanted.length > 0) {
    await shelf.find(file.name, file.setId, new Map(wanted.map(line => [line.id, line.file])));
    const gone = lost();
    if (gone.length > 0) {
      const more = gone.length > 1 ? ` (and ${gone.length - 1} more layers are missing)` : '';
      throw new ImageError('broken-chain', missing(gone[0]!) + more, { file: file.name });
    }
  }
  spare = new Uint8Array(body.buffer);
}

export interface Reach {
  readonly shelf: Shelf;
  readonly file: SetFile;
  readonly commit: PlacedCommit;
  /** Files of the set, in the folder of `file`. */
  readonly files: LayerFiles;
  readonly setId: Uint8Array;
  readonly cipher: Cipher;
  readonly keys: SetKeys | null;
}

/** The table, from the file where it was seen, or from where the point is now: a consolidation moves it. */
async function tableNow({ shelf, file, commit }: Reach): Promise<readonly Line[]> {
  try {
    return await readTable(file, commit);
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    for (const { name } of await shelf.again(file.name, file.setId, commit.layer)) {
      const { file: now, tail } = await shelf.identify(name);
      const place = tail.commits.find(({ layer }) => sameBytes(layer, commit.layer));
      const moved = place === undefined ? null : await shelf.use(name, source => readCommit(source, place));
      if (moved !== null && sameBytes(moved.hash, commit.hash)) return readTable(now, moved);
    }
    throw error;
  }
}

/** What the trees of a commit are read with. */
export async function objectsOf(reach: Reach): Promise<Objects> {
  const { shelf, file, files, setId, cipher, keys } = reach;
  const lines = await tableNow(reach);
  const holders = lines.map(({ layer }) => {
    const all = files.of(layer);
    // Its own file first: there the hints of a point lead.
    return all.length > 1 && all.includes(file) ? [file, ...all.filter(one => one !== file)] : [...all];
  });
  return {
    setId,
    cipher,
    keys,
    lines,
    holders,
    // A consolidation may have moved the layer.
    async relocate(line) {
      const now = await shelf.again(file.name, file.setId, lines[line]!.layer);
      if (now.every(one => holders[line]!.includes(one))) return false;
      holders[line] = [...now];
      return true;
    },
  };
}

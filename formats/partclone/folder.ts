/** The files of a Clonezilla image, by what they are named. */

import { filesIn } from '../../src/base/beside.ts';
import type { ByteSource, Bytes, Store, StoreEntry } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { joinedSource } from '../../src/base/joined.ts';
import { lazySource } from '../../src/base/lazy.ts';

export interface Folder {
  readonly store: Store;
  /** '' or with a slash at its end. */
  readonly path: string;
  /** By their names in the folder. */
  readonly entries: ReadonlyMap<string, StoreEntry>;
}

export const folderOf = (name: string): string => name.slice(0, name.lastIndexOf('/') + 1);

/** Files directly in the folder of `name`. */
export async function openFolder(store: Store, name: string): Promise<Folder> {
  const path = folderOf(name);
  const entries = new Map<string, StoreEntry>();
  for await (const entry of filesIn(store, path.slice(0, -1))) entries.set(entry.name.slice(path.length), entry);
  return { store, path, entries };
}

/** A whole small file; null when there is none. */
export async function smallFile(folder: Folder, own: string, most: Bytes): Promise<Uint8Array | null> {
  const entry = folder.entries.get(own);
  if (entry === undefined) return null;
  const file = entry.name;
  if (entry.size > most) throw new ImageError('corrupt', `larger than ${most} bytes, which it never is`, { file });
  await using source = await folder.store.open(file);
  const content = new Uint8Array(source.size);
  await source.read(content, 0);
  return content;
}

const MOST_TEXT: Bytes = 2 ** 20;

export async function textFile(folder: Folder, own: string): Promise<string | null> {
  const content = await smallFile(folder, own, MOST_TEXT);
  return content === null ? null : new TextDecoder().decode(content);
}

/** partclone, dd, ntfsclone. */
type Tool = 'ptcl' | 'dd' | 'ntfs';

/** `sda1.ext4-ptcl-img.gz.aa`: a partition, the tool that saved it, how it is compressed, which piece of the file. */
interface PieceName {
  readonly part: string;
  readonly tool: Tool;
  /** All before the piece's letters. */
  readonly stem: string;
  /** All before the compression too. */
  readonly bare: string;
  /** '' when it is not compressed. */
  readonly packing: string;
  /** '' when the file is whole. */
  readonly piece: string;
}

const PIECE =
  /^((.+?)\.(?:[\w+]+-(ptcl)|(dd|ntfs))-img)(\.(?:gz|bz2|lzo|lzma|xz|lzip|lrz|lz4|zst|uncomp))?(?:\.([a-z]{2,3}))?$/;

export function pieceName(own: string): PieceName | null {
  const found = PIECE.exec(own);
  if (found === null) return null;
  const [, bare = '', part = '', ptcl, other, packed = '', piece = ''] = found;
  const tool = (ptcl ?? other) as Tool;
  return { part, tool, bare, stem: bare + packed, packing: packed === '.uncomp' ? '' : packed.slice(1), piece };
}

/** The pieces of one file, in order. */
export interface Stream extends Omit<PieceName, 'piece'> {
  readonly pieces: readonly StoreEntry[];
}

const indexOf = (letters: string): number => {
  let index = 0;
  for (const letter of letters) index = index * 26 + letter.charCodeAt(0) - 97;
  return index;
};
const lettersOf = (index: number, width: number): string => {
  let letters = '';
  let rest = index;
  for (let i = 0; i < width; i++, rest = Math.floor(rest / 26))
    letters = String.fromCharCode(97 + (rest % 26)) + letters;
  return letters;
};

/** Throws 'broken-chain' for a piece that is missing between others, or shorter than they are. */
export function checkPieces({ stem, pieces }: Stream): void {
  if (pieces.length === 1 && pieces[0]!.name.endsWith(stem)) return;
  const width = pieces[0]!.name.length - pieces[0]!.name.lastIndexOf('.') - 1;
  for (const [i, { name, size }] of pieces.entries()) {
    const wanted = lettersOf(i, width);
    const base = name.slice(0, name.lastIndexOf('.') + 1);
    if (name !== base + wanted) throw new ImageError('broken-chain', 'a piece is missing', { file: base + wanted });
    if (i < pieces.length - 1 && size !== pieces[0]!.size) {
      throw new ImageError('broken-chain', `a piece of ${size} bytes between pieces of ${pieces[0]!.size}`, {
        file: name,
      });
    }
  }
}

/** What was saved of the partition `part`; uncompressed where there is both. null: nothing. */
export function streamOf(folder: Folder, part: string): Stream | null {
  const found = new Map<string, { readonly name: PieceName; readonly pieces: [number, StoreEntry][] }>();
  for (const [own, entry] of folder.entries) {
    const name = pieceName(own);
    if (name?.part !== part) continue;
    const stream = found.get(name.stem) ?? { name, pieces: [] };
    stream.pieces.push([indexOf(name.piece), entry]);
    found.set(name.stem, stream);
  }
  const streams = [...found.values()].toSorted((a, b) => a.name.packing.length - b.name.packing.length);
  const best = streams[0];
  if (best === undefined) return null;
  const pieces = best.pieces.toSorted(([a], [b]) => a - b).map(([, entry]) => entry);
  return { ...best.name, pieces };
}

/** The pieces one after another; a file is opened when it is first read. */
export function streamSource({ store, path }: Folder, { stem, pieces }: Stream): ByteSource {
  const sources = pieces.map(({ name, size }) => lazySource(store, name, size));
  const version = pieces.map(piece => `${piece.size} ${piece.modified.getTime()}`).join(' ');
  return { ...joinedSource(path + stem, sources), version };
}

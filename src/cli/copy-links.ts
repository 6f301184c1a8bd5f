/** Files with several names: what was copied under one of them gets the others too. */
import fs from 'node:fs';
import type { PointFile } from '../files/point-files.ts';
import { inside, isThere } from './copy-file.ts';

const { O_RDONLY, O_DIRECTORY, O_NOFOLLOW } = fs.constants;

interface First {
  /** Below the folder that everything is copied into. */
  readonly path: readonly string[];
  readonly device: bigint;
  readonly inode: bigint;
  /** Numbers are used again for the next file. */
  readonly born: bigint;
  /** Names that are still to come. */
  left: number;
}

/** A folder below another one, each step by its handle: no link is followed on the way. */
function openBelow(top: number, path: readonly string[]): number {
  let folder = fs.openSync(inside(top, '.'), O_RDONLY | O_DIRECTORY);
  for (const name of path) {
    const above = folder;
    try {
      folder = fs.openSync(inside(above, name), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    } finally {
      fs.closeSync(above);
    }
  }
  return folder;
}

export class CopiedLinks {
  readonly #top: number;
  readonly #first = new Map<string, First>();

  /** `top`: the open folder that all paths begin in. */
  constructor(top: number) {
    this.#top = top;
  }

  /** Remembers where a file with more names is. */
  made({ id, links }: PointFile, folder: number, path: string): void {
    if (id === '' || links < 2 || this.#first.has(id)) return;
    const names = path.split('/');
    const stat = fs.lstatSync(inside(folder, names.at(-1)!), { bigint: true, throwIfNoEntry: false });
    if (stat?.isFile() !== true) return;
    this.#first.set(id, { path: names, device: stat.dev, inode: stat.ino, born: stat.birthtimeNs, left: links - 1 });
  }

  /** Gives what is there under another name this name too. false: it is to be copied; a name that exists throws EEXIST. */
  link(node: PointFile, folder: number, name: string): boolean {
    const { id } = node;
    const first = id === '' ? undefined : this.#first.get(id);
    if (first === undefined) return false;
    if (--first.left <= 0) this.#first.delete(id);
    let from: number | null = null;
    try {
      from = openBelow(this.#top, first.path.slice(0, -1));
      const file = inside(from, first.path.at(-1)!);
      const stat = fs.lstatSync(file, { bigint: true });
      const same = stat.dev === first.device && stat.ino === first.inode && stat.birthtimeNs === first.born;
      if (!same || !isThere(file, node)) return false;
      fs.linkSync(file, inside(folder, name));
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EEXIST') throw error;
      return false;
    } finally {
      if (from !== null) fs.closeSync(from);
    }
  }
}

/** Damaged copies of files that cost nothing: the original bytes, over them a few patches, and another length. */
import type { Bytes, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';

export type Files = Readonly<Record<string, Uint8Array>>;

interface Patch {
  readonly at: Bytes;
  readonly bytes: Uint8Array;
}

/** One file as it reads now. Bytes past the original's end are zeros. */
export class DamagedFile {
  readonly #original: Uint8Array;
  readonly #patches: Patch[] = [];
  size: Bytes;

  constructor(original: Uint8Array) {
    this.#original = original;
    this.size = original.length;
  }

  get isDamaged(): boolean {
    return this.#patches.length > 0 || this.size !== this.#original.length;
  }

  /** Lies over what was there before; the size stays. */
  write(at: Bytes, bytes: Uint8Array): void {
    if (at >= 0) this.#patches.push({ at, bytes });
  }

  fill(into: Uint8Array, at: Bytes): void {
    const there = this.#original.subarray(at, at + into.length);
    into.set(there);
    into.fill(0, there.length);
    for (const patch of this.#patches) {
      const from = Math.max(at, patch.at);
      const to = Math.min(at + into.length, patch.at + patch.bytes.length);
      if (from < to) into.set(patch.bytes.subarray(from - patch.at, to - patch.at), from - at);
    }
  }

  /** A copy of a stretch; shorter where the file ends. */
  read(at: Bytes, length: Bytes): Uint8Array {
    const out = new Uint8Array(Math.max(0, Math.min(length, this.size - at)));
    this.fill(out, at);
    return out;
  }
}

export class DamagedFiles {
  readonly #files = new Map<string, DamagedFile>();

  constructor(files: Files) {
    for (const [name, bytes] of Object.entries(files)) this.#files.set(name, new DamagedFile(bytes));
  }

  get names(): readonly string[] {
    return [...this.#files.keys()];
  }

  /** undefined: there is no such file, or no longer. */
  file(name: string): DamagedFile | undefined {
    return this.#files.get(name);
  }

  remove(name: string): void {
    this.#files.delete(name);
  }

  /** All of them as plain bytes. */
  bytes(): Files {
    return Object.fromEntries(this.names.map(name => [name, this.file(name)!.read(0, this.file(name)!.size)]));
  }
}

/** What a case did to its store. */
export interface Watch {
  /** Names that lead outside. */
  readonly outside: string[];
  /** Files that are open now. */
  open: number;
  /** Called before each read; null: nobody wants to know. */
  onRead: ((file: string, at: Bytes, length: Bytes) => void) | null;
}

export const watch = (): Watch => ({ outside: [], open: 0, onRead: null });

const leadsOutside = (name: string): boolean =>
  name.startsWith('/') || name.includes('\0') || name.split('/').includes('..');

/** A store of damaged files. What is asked of it is noted in `seen`. */
export function damagedStore(files: DamagedFiles, seen: Watch): Store {
  const missing = (name: string): ImageError =>
    new ImageError('not-found', 'no such file in the repository', { file: name });
  return {
    label: 'fuzz',
    async *list(prefix = '') {
      for (const name of files.names.toSorted()) {
        if (prefix !== '' && !name.startsWith(`${prefix}/`)) continue;
        yield { name, size: files.file(name)!.size, modified: new Date(0) };
      }
    },
    async open(name) {
      if (leadsOutside(name)) seen.outside.push(name);
      const file = files.file(name);
      if (file === undefined) throw missing(name);
      const { size } = file;
      let open = true;
      seen.open++;
      return {
        name,
        size,
        read(into, at) {
          if (!Number.isSafeInteger(at) || at < 0 || at + into.length > size) {
            throw new ImageError('corrupt', `the file ends early: ${size} bytes`, { file: name, at });
          }
          seen.onRead?.(name, at, into.length);
          file.fill(into, at);
        },
        async [Symbol.asyncDispose]() {
          if (open) seen.open--;
          open = false;
        },
      };
    },
    async [Symbol.asyncDispose]() {},
  };
}

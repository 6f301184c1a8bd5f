import fs from 'node:fs';
import path from 'node:path';
import type { ByteFile, Store, StoreEntry, WritableStore } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { syncDirectory } from '../base/files.ts';
import { openFile, writtenAside } from '../base/io.ts';

/** A name leads nowhere but below the root: no `..`, no absolute path, no NUL, no backslash tricks. */
function checkName(name: string): void {
  if (
    name === '' ||
    name.startsWith('/') ||
    name.includes('\0') ||
    name.split('/').some(p => p === '' || p === '.' || p === '..')
  ) {
    throw new ImageError('not-found', 'the name leads outside the repository', { file: name });
  }
}

/** The real path of a name; refuses a symbolic link that leads out of `root`. */
function resolveInside(root: string, name: string): string {
  checkName(name);
  let real: string;
  try {
    real = fs.realpathSync.native(path.join(root, name));
  } catch (cause) {
    throw new ImageError('not-found', 'no such file in the repository', { file: name }, { cause });
  }
  if (real !== root && !real.startsWith(root === '/' ? '/' : `${root}/`)) {
    throw new ImageError('not-found', 'the name leads outside the repository', { file: name });
  }
  return real;
}

type Skips = (folder: string) => boolean;

async function* walk(root: string, folder: string, skips: Skips): AsyncIterable<StoreEntry> {
  // Names as bytes: one that is not UTF-8 could not be opened again by its decoded form, so it is left out.
  const entries = fs.readdirSync(path.join(root, folder), { withFileTypes: true, encoding: 'buffer' });
  const named = entries
    .map(entry => ({ entry, name: entry.name.toString('utf8') }))
    .filter(({ entry, name }) => Buffer.from(name).equals(entry.name))
    .sort((a, b) => Buffer.compare(a.entry.name, b.entry.name));
  for (const { entry, name } of named) {
    const full = folder === '' ? name : `${folder}/${name}`;
    if (entry.isDirectory()) {
      if (!skips(full)) yield* walk(root, full, skips);
    } else if (entry.isFile()) {
      const stat = fs.statSync(path.join(root, full));
      yield { name: full, size: stat.size, modified: stat.mtime };
    }
  }
}

/**
 * A folder as a store, read only: nothing reachable from here opens a file for writing. `fromDevice`: long reads go around the
 * page cache, to see what its device holds.
 */
export function localStore(folder: string, fromDevice = false): Store {
  const root = fs.realpathSync(folder);
  return {
    label: folder,
    list: (prefix = '', skips = () => false) => walk(root, prefix, skips),
    async open(name) {
      const opened = await openFile(resolveInside(root, name), 'read', name);
      if (fromDevice) opened.bypassCache('read');
      return opened;
    },
    async [Symbol.asyncDispose]() {},
  };
}

/** One file as a store; its siblings can be opened (a parent lies beside its child) but are not listed. */
export function localFileStore(file: string, fromDevice = false): Store {
  const folder = path.dirname(path.resolve(file));
  const name = path.basename(file);
  const inner = localStore(folder, fromDevice);
  return {
    label: file,
    async *list(prefix = '') {
      if (prefix !== '') return;
      const stat = fs.statSync(path.join(folder, name));
      yield { name, size: stat.size, modified: stat.mtime };
    },
    beside: prefix => inner.list(prefix, () => true),
    open: n => inner.open(n),
    async [Symbol.asyncDispose]() {},
  };
}

/** A folder that a backup writes to. Made when missing. */
export function localWritableStore(folder: string): WritableStore {
  fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
  const root = fs.realpathSync(folder);
  const inner = localStore(folder);
  const target = (name: string): string => {
    checkName(name);
    const full = path.join(root, name);
    fs.mkdirSync(path.dirname(full), { recursive: true, mode: 0o700 });
    // The folder may be a link that was planted: it is resolved before anything is made in it.
    if (fs.realpathSync(path.dirname(full)) !== path.dirname(full)) {
      throw new ImageError('not-found', 'the name leads outside the repository', { file: name });
    }
    return full;
  };
  return {
    ...inner,
    create: async (name): Promise<ByteFile> => writtenAside(await openFile(target(name), 'create', name)),
    reopen: async (name): Promise<ByteFile> => writtenAside(await openFile(target(name), 'write', name)),
    async rename(from, to) {
      try {
        fs.renameSync(target(from), target(to));
      } catch (cause) {
        if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') throw cause;
        throw new ImageError('not-found', 'no such file in the repository', { file: from }, { cause });
      }
      await syncDirectory(path.dirname(target(to)));
    },
    async remove(name) {
      fs.rmSync(target(name));
      await syncDirectory(path.dirname(target(name)));
    },
  };
}

import fs from 'node:fs';
import type { Store } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { localFileStore, localStore } from './local.ts';

/** A repository as the user names it: a folder, a single backup file, or a URL of a kind that is supported. */
export async function openStore(repo: string): Promise<Store> {
  const scheme = /^([a-z][a-z0-9+.-]+):\/\//i.exec(repo);
  if (scheme !== null)
    throw new ImageError('unsupported', `repositories at ${scheme[1]}:// cannot be read`, { file: repo });
  let stat: fs.Stats;
  try {
    stat = fs.statSync(repo);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR')
      throw new ImageError('not-found', 'no such file or directory', { file: repo }, { cause });
    throw new ImageError('io', `cannot be opened (${code})`, { file: repo }, { cause });
  }
  return stat.isDirectory() ? localStore(repo) : localFileStore(repo);
}

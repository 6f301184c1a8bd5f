// Plain JavaScript, as bootmount.js which needs it.
import { lstatSync, mkdirSync } from 'node:fs';
import { enableCompileCache } from 'node:module';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** A folder that only this user can write to: what lies in it is run. Null when there is none to be had. */
export function ownFolder(folder) {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const stat = lstatSync(folder);
    return stat.isDirectory() && stat.uid === process.getuid() && (stat.mode & 0o022) === 0 ? folder : null;
  } catch {
    return null;
  }
}

/** Most of the time that a short verb takes is the translation of the program: it is kept, for this process and those that it starts. */
export function keepCompiled() {
  if (process.env.NODE_COMPILE_CACHE !== undefined || process.env.NODE_DISABLE_COMPILE_CACHE !== undefined) return;
  const base = process.env.XDG_CACHE_HOME || join(homedir(), '.cache');
  const folder = base.startsWith('/') ? ownFolder(join(base, 'bootmount')) : null;
  if (folder === null) return;
  enableCompileCache(folder);
  process.env.NODE_COMPILE_CACHE = folder;
}

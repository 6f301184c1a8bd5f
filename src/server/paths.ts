/** Where a mount keeps what it needs: overlays in the state folder, its socket and node table in the run folder. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { ImageError } from '../base/errors.ts';

const root = process.getuid?.() === 0;
const short = (text: string): string => createHash('sha256').update(text).digest('hex').slice(0, 16);

/** Default state folder of a repository: found again as long as the repository lies at the same place. */
export function stateFolder(repo: string): string {
  const home = root ? '/var/lib' : process.env.XDG_STATE_HOME || path.join(os.homedir(), '.local/state');
  const real = fs.existsSync(repo) ? fs.realpathSync(repo) : repo;
  const label = path.basename(real).replaceAll(/[^A-Za-z0-9._-]/g, '_') || 'repo';
  return path.join(home, 'bootmount', `${label}-${short(real)}`);
}

/** Where compressed backups of a repository are unpacked, when nothing else is said. */
export const scratchFolder = (repo: string): string => path.join(stateFolder(repo), 'unpacked');

const isPrivate = (folder: string): boolean => {
  const stat = fs.lstatSync(folder, { throwIfNoEntry: false });
  return stat?.isDirectory() === true && stat.uid === process.getuid?.() && (stat.mode & 0o077) === 0;
};

/** A folder that only this user can enter; anything else of that name is refused. */
function privateFolder(folder: string): string {
  fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
  if (!isPrivate(folder)) {
    throw new ImageError('io', 'is not a private folder of this user (mode 0700)', { file: folder });
  }
  return folder;
}

/**
 * XDG_RUNTIME_DIR unless it is another user's (as after `su`), else where it would be (a job without a session must find
 * the mount too), else a folder below the temporary one.
 */
function runHome(): string {
  if (root) return '/run/bootmount';
  const uid = process.getuid?.() ?? 0;
  const homes = [process.env.XDG_RUNTIME_DIR ?? '', `/run/user/${uid}`];
  const home = homes.find(folder => path.isAbsolute(folder) && isPrivate(folder));
  return path.join(home ?? privateFolder(path.join(os.tmpdir(), `bootmount-${uid}`)), 'bootmount');
}

export interface RunPaths {
  readonly folder: string;
  readonly socket: string;
  readonly nodes: string;
  readonly log: string;
  /** Compiled program, so that the next worker starts in a fraction of the time. */
  readonly code: string;
}

/** The run folder of a mountpoint, made when missing. `at` is the mountpoint's absolute path. */
export function runPaths(at: string): RunPaths {
  const folder = path.join(privateFolder(runHome()), short(at));
  return {
    folder,
    socket: path.join(folder, 'control'),
    nodes: path.join(folder, 'nodes'),
    log: path.join(folder, 'log'),
    code: path.join(folder, 'code'),
  };
}

/** The absolute path without links, found without touching the mountpoint itself: it may hang or be dead. */
export function mountpointPath(at: string): string {
  const absolute = path.resolve(at);
  const parent = path.dirname(absolute);
  try {
    return path.join(fs.realpathSync(parent), path.basename(absolute));
  } catch (cause) {
    throw new ImageError('not-found', 'no such directory', { file: at }, { cause });
  }
}

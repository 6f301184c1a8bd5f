/** A mount for a figure: a blank disk as backup, clones of it, and what the kernel says about the connection. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { connectionFolder, mountsOf } from '../../src/host/fuse/mount.ts';
import { askControl } from '../../src/server/control.ts';
import { releaseMountpoint } from '../../src/server/guard.ts';
import { runPaths } from '../../src/server/paths.ts';
import type { ControlRequest, MountStatus } from '../../src/server/protocol.ts';
import { pause } from './figure.ts';

const PROGRAM = fileURLToPath(new URL('../../src/cli/bootmount.js', import.meta.url));
const HOOKS = new URL('./hooks.ts', import.meta.url).href;

/** What `hooks.ts` does inside the processes of a mount. */
export interface Hooks {
  readonly plant?: string | null;
  /** A file into which a worker that ends by itself writes how long it let its callers wait. */
  readonly delays?: string;
}

export interface StageOptions extends Hooks {
  /** Bytes of the blank disk. */
  readonly size?: number;
  /** One clone for each, named after its format. */
  readonly formats: readonly string[];
  /** Folder of the overlays; inside the stage's own when missing. */
  readonly state?: string;
  /** A backup to use in place of the blank disk: a folder, and a point in it. */
  readonly backup?: { readonly repo: string; readonly point: string };
  /** Called before the mount, with what runs a program in the stage's folder and gives its output. */
  prepare?(tool: (program: string, ...args: string[]) => string): void;
}

export interface Stage extends AsyncDisposable {
  readonly folder: string;
  readonly mnt: string;
  readonly state: string;
  clone(format: string): string;
  run(program: string, ...args: string[]): string;
  bootmount(...args: string[]): string;
  ask(request: ControlRequest): Promise<unknown>;
  status(): Promise<MountStatus>;
  /** Requests that the kernel waits for. */
  waiting(): number;
  /** Every caller that waits gets an error. */
  abort(): void;
}

const hooked = ({ plant, delays }: Hooks): NodeJS.ProcessEnv =>
  plant == null && delays === undefined
    ? process.env
    : {
        ...process.env,
        NODE_OPTIONS: `--import ${HOOKS}`,
        ...(plant == null ? {} : { SOAK_PLANT: plant }),
        ...(delays === undefined ? {} : { SOAK_DELAYS: delays }),
      };

export async function openStage(options: StageOptions): Promise<Stage> {
  const folder = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-soak-')));
  const mnt = path.join(folder, 'mnt');
  const state = options.state ?? path.join(folder, 'state');
  const run = (program: string, args: readonly string[], env = process.env): string =>
    execFileSync(program, args, {
      encoding: 'utf8',
      cwd: folder,
      env,
      maxBuffer: 2 ** 26,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
  const bootmount = (args: readonly string[], env = process.env): string =>
    run(process.execPath, [PROGRAM, ...args], env);
  fs.mkdirSync(mnt);
  const backup = options.backup ?? { repo: path.join(folder, 'repo'), point: 'soak@latest' };
  const end = (): void => {
    try {
      if (mountsOf(mnt).length > 0) bootmount(['umount', mnt, '--release', '--force']);
    } finally {
      // A mount that ended by itself leaves its directory guarded.
      releaseMountpoint(mnt);
      fs.rmSync(folder, { recursive: true, force: true });
    }
  };
  try {
    options.prepare?.((program, ...args) => run(program, args));
    if (options.backup === undefined) {
      const disk = path.join(folder, 'disk.raw');
      fs.writeFileSync(disk, '');
      fs.truncateSync(disk, options.size ?? 256 * 2 ** 20);
      bootmount(['backup', disk, backup.repo, '--set', 'soak']);
    }
    const clones = options.formats.flatMap(format => ['--clone', `${backup.point}:${format}:${format}`]);
    bootmount(['mount', backup.repo, mnt, '--state', state, ...clones], hooked(options));
  } catch (error) {
    end();
    throw error;
  }
  const connection = connectionFolder(mountsOf(mnt)[0]!);
  if (!fs.existsSync(connection)) run('mount', ['-t', 'fusectl', 'fusectl', '/sys/fs/fuse/connections']);
  const { socket } = runPaths(mnt);
  const ask = (request: ControlRequest): Promise<unknown> => askControl(socket, request, mnt);
  return {
    folder,
    mnt,
    state,
    clone: format => path.join(mnt, 'clones', format, `disk0${format === 'vmdk' ? '-flat' : ''}.${format}`),
    run: (program, ...args) => run(program, args),
    bootmount: (...args) => bootmount(args),
    ask,
    status: async () => (await ask({ verb: 'status' })) as MountStatus,
    waiting: () => Number(fs.readFileSync(`${connection}/waiting`, 'utf8')),
    abort: () => fs.writeFileSync(`${connection}/abort`, '1'),
    [Symbol.asyncDispose]: async () => end(),
  };
}

/** Status of the worker that serves; while one has just died there is none to ask. */
export async function serving(stage: Stage): Promise<MountStatus> {
  for (let tries = 1; ; tries++) {
    try {
      return await stage.status();
    } catch (error) {
      if (tries === 300) throw error;
      await pause(20);
    }
  }
}

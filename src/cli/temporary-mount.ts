/**
 * A mount of its own for one verb, made and ended by the program's own `mount` and `umount`, so that nothing of it
 * runs inside the verb's process.
 */
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { ImageError } from '../base/errors.ts';
import { mountsOf } from '../host/fuse/mount.ts';
import { releaseMountpoint } from '../server/guard.ts';
import type { KeyArgs } from './secrets.ts';

const PROGRAM = fileURLToPath(new URL('bootmount.js', import.meta.url));
const BUSY = 4;
const BUSY_TRIES = 20;
const BUSY_WAIT_MS = 250;
const HIGHEST_FD = 255;

export interface TemporaryMountSpec {
  readonly repo: string;
  /** `POINT:NAME:FORMAT`. */
  readonly clone: string;
  /** Where overlays are kept; null: in a folder that is deleted at the end, and they with it. */
  readonly state: string | 'default' | null;
  readonly keys: KeyArgs;
  /** More flags for `mount`. */
  readonly flags: readonly string[];
  readonly json: boolean;
  readonly signal: AbortSignal;
}

export interface TemporaryMount extends AsyncDisposable {
  readonly at: string;
  /** Private, and gone when the mount is. */
  readonly scratch: string;
}

/** `mount` said no and has told why on stderr, in its own words. */
export interface Refused {
  readonly exitCode: number;
  readonly told: string;
}

interface Ran {
  readonly code: number;
  readonly told: string;
}

/** Runs the program. `told`: its stderr, empty when that went to the terminal. */
async function runSelf(args: readonly string[], keys: KeyArgs, signal: AbortSignal | null): Promise<Ran> {
  const named = keys.keyFile !== undefined || keys.keyFd !== undefined || keys.keyCommand !== undefined;
  // Without a named key the verb may have to ask for one, on the terminal.
  const asks = signal !== null && !named && process.stdin.isTTY === true && process.stderr.isTTY === true;
  const stdio: ('inherit' | 'ignore' | 'pipe' | number)[] = [
    asks || named ? 'inherit' : 'ignore',
    'ignore',
    asks ? 'inherit' : 'pipe',
  ];
  if (keys.keyFd !== undefined && keys.keyFd > 2 && keys.keyFd <= HIGHEST_FD) {
    while (stdio.length < keys.keyFd) stdio.push('ignore');
    stdio.push(keys.keyFd);
  }
  // Ending a mount goes on when the terminal sends a second Ctrl-C to the group.
  const child = spawn(process.execPath, [PROGRAM, ...args], { stdio, detached: signal === null });
  const stop = (): void => void child.kill('SIGTERM');
  signal?.addEventListener('abort', stop);
  let told = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    told += text;
  });
  try {
    const code = await new Promise<number>((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (exit, by) => resolve(exit ?? 128 + (by === null ? 0 : os.constants.signals[by])));
    });
    return { code, told: told.trimEnd() };
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}

/** The flags that name the same keys again. */
export const keyFlags = (keys: KeyArgs): readonly string[] => [
  ...(keys.keyFile ?? []).flatMap(file => ['--key-file', file]),
  ...(keys.keyFd === undefined ? [] : ['--key-fd', `${keys.keyFd}`]),
  ...(keys.keyCommand === undefined ? [] : ['--key-command', keys.keyCommand]),
  ...(keys.adapter ?? []).flatMap(file => ['--adapter', file]),
];

/** Unmounts, waiting a while for a reader that is about to close, and removes the folder; never a folder that is mounted. */
async function endMount(folder: string, at: string): Promise<void> {
  if (mountsOf(at).length > 0) {
    let ran = await runSelf(['umount', at, '--release'], {}, null);
    for (let tries = 0; ran.code === BUSY && tries < BUSY_TRIES; tries++) {
      await new Promise(resolve => setTimeout(resolve, BUSY_WAIT_MS));
      ran = await runSelf(['umount', at, '--release'], {}, null);
    }
    if (mountsOf(at).length > 0) {
      const hint = `bootmount umount ${at} --release, then remove ${folder}`;
      throw new ImageError('busy', `the temporary mount cannot be ended: ${ran.told}`, { file: at }, { hint });
    }
  }
  releaseMountpoint(at);
  fs.rmSync(folder, { recursive: true, force: true });
}

export async function temporaryMount(spec: TemporaryMountSpec): Promise<TemporaryMount | Refused> {
  const folder = fs.mkdtempSync(path.join(fs.realpathSync(os.tmpdir()), 'bootmount-'));
  const at = path.join(folder, 'mnt');
  const scratch = path.join(folder, 'scratch');
  for (const made of [at, scratch]) fs.mkdirSync(made, { mode: 0o700 });
  const state = spec.state === 'default' ? [] : ['--state', spec.state ?? path.join(folder, 'state')];
  const args = ['mount', spec.repo, at, '--clone', spec.clone, ...state, ...spec.flags, ...keyFlags(spec.keys)];
  try {
    const { code, told } = await runSelf(spec.json ? [...args, '--json'] : args, spec.keys, spec.signal);
    spec.signal.throwIfAborted();
    if (code === 0) return { at, scratch, [Symbol.asyncDispose]: () => endMount(folder, at) };
    await endMount(folder, at);
    return { exitCode: code, told };
  } catch (error) {
    await endMount(folder, at);
    throw error;
  }
}

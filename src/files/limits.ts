/** What bounds a child of this program, by programs of util-linux; without them the child's heap is bounded all the same. */
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import { findProgram } from '../base/files.ts';

const PLACES = ['/usr/bin', '/bin'];

/**
 * Whether a program that runs in Node's permission model can give up what it was allowed: not before the releases named
 * here. Source: Node's documentation, "process.permission.drop".
 */
export function dropsPermissions(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major > 26 || (major === 26 && minor >= 7) || (major === 24 && minor >= 21);
}

/**
 * Flags and environment for a child that may read the program's own `sources` and nothing else. Where Node can take a
 * permission back, the child has the cache of translated programs until it says that it is ready: it starts in a fifth
 * of the time, and without the translator, which takes 35 MiB. It ends where it could still write afterwards.
 */
export function confined(sources: string): { readonly flags: readonly string[]; readonly env: Record<string, string> } {
  const cache = dropsPermissions(process.versions.node) ? process.env.NODE_COMPILE_CACHE : undefined;
  const flags = ['--disable-sigusr1', '--permission', `--allow-fs-read=${sources}`];
  if (cache === undefined) return { flags, env: {} };
  return {
    flags: [...flags, `--allow-fs-read=${cache}`, `--allow-fs-write=${cache}`],
    env: { NODE_COMPILE_CACHE: cache },
  };
}

/** How a child ends that had to translate the program, and has kept that for the next one; set: it is the next one. */
export const TRANSLATED_EXIT = 75;
export const TRANSLATED = 'BOOTMOUNT_TRANSLATED';

/**
 * How to start Node with `flags` so that it dies with this program: a child that computes without end would not notice
 * that nobody listens any more.
 */
export function tied(flags: readonly string[]): { readonly execPath: string; readonly execArgv: string[] } {
  const setpriv = findProgram('setpriv', PLACES);
  if (setpriv === null) return { execPath: process.execPath, execArgv: [...flags] };
  return { execPath: setpriv, execArgv: ['--pdeathsig', 'KILL', '--', process.execPath, ...flags] };
}

/**
 * Lets a child take so many bytes beyond what it has now, and leave no core behind. The kernel's own limit (RLIMIT_DATA)
 * also holds for buffers outside the JavaScript heap, whose allocation then fails as an error of that moment.
 */
export async function limitMemory(pid: number, bytes: number): Promise<boolean> {
  const prlimit = findProgram('prlimit', PLACES);
  const held = /^VmData:\s*(\d+) kB/m.exec(fs.readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1];
  if (prlimit === null || held === undefined) return false;
  const limit = Number(held) * 1024 + bytes;
  const child = spawn(prlimit, ['--pid', String(pid), '--core=0', `--data=${limit}`], {
    stdio: 'ignore',
    cwd: '/',
    env: {},
  });
  return new Promise(resolve => {
    child.once('error', () => resolve(false)).once('close', code => resolve(code === 0));
  });
}

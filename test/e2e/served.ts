/** Starts the test's server in a process of its own, and runs programs against the mount. */
import { type ChildProcess, spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as after } from 'node:timers/promises';
import type { Job } from './serve-memory.ts';

const script = path.join(import.meta.dirname, 'serve-memory.ts');

export interface Served extends AsyncDisposable {
  readonly at: string;
  readonly child: ChildProcess;
  /** Everything the server has said so far. */
  readonly events: string[];
  /** Resolves once the server has said `event`, at the latest in ten seconds. */
  heard(event: string): Promise<void>;
}

const made: string[] = [];

export function temporary(): string {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-host-'));
  made.push(folder);
  return folder;
}

/** To be called when every mount has ended. */
export function removeTemporary(): void {
  for (const folder of made.splice(0)) fs.rmSync(folder, { recursive: true, force: true });
}

/** A server that has just been started; `inherit` is its descriptor 3. */
export function start(job: Job, inherit?: number): Served {
  const child = spawn(process.execPath, [script, JSON.stringify(job)], {
    stdio: ['pipe', 'pipe', 'inherit', ...(inherit === undefined ? [] : [inherit])],
  });
  return watch(child, job.at);
}

/** Listens to a process that serves the mount at `at`, and ends both when disposed. */
export function watch(child: ChildProcess, at: string): Served {
  const events: string[] = [];
  let rest = '';
  child.stdout!.setEncoding('utf8').on('data', (part: string) => {
    const lines = (rest + part).split('\n');
    rest = lines.pop()!;
    events.push(...lines);
  });
  return {
    at,
    child,
    events,
    async heard(event) {
      for (let i = 0; i < 1000; i++) {
        if (events.includes(event)) return;
        await after(10);
      }
      throw new Error(`the server never said "${event}", only: ${events.join(', ')}`);
    },
    async [Symbol.asyncDispose]() {
      await run('umount', '-l', at);
      if (child.exitCode !== null || child.signalCode !== null) return;
      const timer = setTimeout(() => child.kill('SIGKILL'), 3000);
      await new Promise(resolve => child.once('exit', resolve));
      clearTimeout(timer);
    },
  };
}

export async function serve(job: Omit<Job, 'at'>): Promise<Served> {
  const served = start({ ...job, at: temporary() });
  await served.heard('ready');
  return served;
}

export interface Ran {
  readonly status: number | null;
  readonly out: string;
  readonly err: string;
}

/** Runs a program to its end, at most a minute. A missing program has the status 127. */
export function run(program: string, ...args: string[]): Promise<Ran> {
  return new Promise(resolve => {
    const child = spawn(program, args, {
      cwd: os.tmpdir(),
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: 60_000,
      killSignal: 'SIGKILL',
    });
    let out = '';
    let err = '';
    child.stdout.on('data', part => {
      out += part;
    });
    child.stderr.on('data', part => {
      err += part;
    });
    child.once('error', () => resolve({ status: 127, out, err: `${program} is missing` }));
    child.once('close', status => resolve({ status, out, err }));
  });
}

/** fio on one file, with direct and asynchronous I/O. The result's `err` is its messages; `out` its JSON. */
export const fio = (file: string, ...args: string[]): Promise<Ran> =>
  run('fio', '--name=t', `--filename=${file}`, '--direct=1', '--ioengine=libaio', '--output-format=json', ...args);

interface FioJob {
  readonly error: number;
  readonly read: { readonly total_ios: number; readonly iops: number };
  readonly write: { readonly total_ios: number; readonly iops: number };
}

export const fioJob = (ran: Ran): FioJob =>
  (JSON.parse(ran.out.slice(ran.out.indexOf('{'))) as { jobs: [FioJob] }).jobs[0];

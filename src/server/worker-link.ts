/** The supervisor's end of a worker: starts it, asks it, wakes it. */
import { type ChildProcess, spawn } from 'node:child_process';
import fs from 'node:fs';
import { fileURLToPath } from 'node:url';
import { ImageError } from '../base/errors.ts';
import { FRUGAL_MALLOC } from '../base/malloc.ts';
import { runPaths } from './paths.ts';
import { type FromWorker, fromWire, type WorkerRequest } from './protocol.ts';

const WORKER = fileURLToPath(new URL('./worker.ts', import.meta.url));
/** The worker's pool holds reads of the FUSE device, disk reads, decoding and key derivation at once. */
const POOL_THREADS = '16';

/** What serving makes garbage of is small; by default V8 lets more than 100 MiB of it lie when a large folder is listed. */
const YOUNG_MIB = 2;

/** While an order is not carried out the worker is woken so often, in ms. */
const POKE_MS = 5;

export type Exit = { readonly code: number | null; readonly signal: NodeJS.Signals | null };

export class WorkerLink {
  readonly exit: Promise<Exit>;
  readonly #child: ChildProcess;
  readonly #mountpoint: string;
  readonly #waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  #next = 1;
  #serving = false;
  #servingId = 0;
  #proven = false;
  #beats = 0;
  #answered = 0;
  #poking = false;
  #poke: Promise<void> = Promise.resolve();

  constructor(fuseFd: number, mountpoint: string) {
    this.#mountpoint = mountpoint;
    this.#child = spawn(process.execPath, ['--disable-sigusr1', `--max-semi-space-size=${YOUNG_MIB}`, WORKER], {
      stdio: ['ignore', 'inherit', 'inherit', fuseFd, 'ipc'],
      env: {
        ...FRUGAL_MALLOC,
        ...process.env,
        UV_THREADPOOL_SIZE: process.env.UV_THREADPOOL_SIZE ?? POOL_THREADS,
        NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE ?? runPaths(mountpoint).code,
      },
    });
    this.exit = new Promise(resolve => {
      this.#child.once('exit', (code, signal) => {
        for (const { reject } of this.#waiting.values()) reject(new ImageError('io', 'the serving process ended'));
        this.#waiting.clear();
        resolve({ code, signal });
      });
    });
    this.#child.on('message', (message: FromWorker) => {
      if ('beat' in message) {
        this.#beats++;
        this.#answered = message.beat;
        return;
      }
      const waiting = this.#waiting.get(message.id);
      this.#waiting.delete(message.id);
      if (this.#serving && message.id > this.#servingId) this.#proven = true;
      if (message.error === undefined) waiting?.resolve(message.value);
      else waiting?.reject(fromWire(message.error));
    });
  }

  /** It has answered an order while it served. */
  get proven(): boolean {
    return this.#proven;
  }

  /** How often it has said that its event loop turns. */
  get beats(): number {
    return this.#beats;
  }

  /** Requests that it had answered when it last said so. */
  get answered(): number {
    return this.#answered;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  ask(request: WorkerRequest): Promise<unknown> {
    const id = this.#next++;
    const answer = new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
    this.#child.send({ id, request }, error => {
      if (error === null) return;
      this.#waiting
        .get(id)
        ?.reject(new ImageError('io', 'the serving process cannot be reached', {}, { cause: error }));
      this.#waiting.delete(id);
    });
    if (this.#serving) this.#wake();
    if (request.verb === 'serve') {
      this.#serving = true;
      this.#servingId = id;
    }
    return answer;
  }

  /** Resolves when no question to the mount is under way: one of them would make an unmount fail as busy. */
  quiet(): Promise<void> {
    return this.#poke;
  }

  /** The loop may be blocked in a read of the FUSE device: a question to the mount ends that, until it has answered all. */
  #wake(): void {
    if (this.#poking || this.#waiting.size === 0) return;
    this.#poking = true;
    this.#poke = new Promise(resolve => {
      fs.statfs(this.#mountpoint, () => {
        this.#poking = false;
        resolve();
        setTimeout(() => this.#wake(), POKE_MS);
      });
    });
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }
}

/** Threads that pack blocks, one for each core, started when there is enough to do. */
import os from 'node:os';
import { Worker } from 'node:worker_threads';
import { ImageError } from '../../src/base/errors.ts';
import { type Batch, type PackSpec, packBatch } from './pack.ts';
import type { Order } from './pack-worker.ts';

/** So many batches are packed in the caller's thread: small layers are done before a thread would have started. */
const AT_HOME = 4;

interface Thread {
  readonly worker: Worker;
  /** Batches under way in it, oldest first: a thread does them in order. */
  readonly running: { resolve(): void; reject(error: unknown): void }[];
}

export class Packers {
  readonly #spec: PackSpec;
  readonly #threads: Thread[] = [];
  readonly #most: number;
  #batches = 0;

  constructor(spec: PackSpec, threads = os.availableParallelism()) {
    this.#spec = spec;
    this.#most = threads;
  }

  /** The records of the batch are there when it is done. Rejects when packing fails, or its thread ends. */
  pack(batch: Batch, count: number): Promise<void> | void {
    if (this.#batches++ < AT_HOME || this.#most === 0) return packBatch(this.#spec, batch, count);
    const thread = this.#next();
    thread.worker.ref();
    return new Promise((resolve, reject) => {
      thread.running.push({ resolve, reject });
      thread.worker.postMessage({ batch, count } satisfies Order);
    });
  }

  /** The thread with the least to do. */
  #next(): Thread {
    let best: Thread | null = null;
    for (const thread of this.#threads) if (best === null || thread.running.length < best.running.length) best = thread;
    if (best !== null && (best.running.length === 0 || this.#threads.length >= this.#most)) return best;
    return this.#start();
  }

  #start(): Thread {
    const worker = new Worker(new URL('./pack-worker.ts', import.meta.url), { workerData: this.#spec });
    const thread: Thread = { worker, running: [] };
    const fail = (error: unknown): void => {
      const at = this.#threads.indexOf(thread);
      if (at >= 0) this.#threads.splice(at, 1);
      for (const { reject } of thread.running.splice(0)) reject(error);
    };
    worker.on('message', () => {
      thread.running.shift()?.resolve();
      // A thread that waits for work keeps nobody from ending.
      if (thread.running.length === 0) worker.unref();
    });
    worker.on('error', fail);
    worker.on('exit', code => fail(new ImageError('io', `a thread that packs blocks ended with code ${code}`)));
    this.#threads.push(thread);
    return thread;
  }

  async end(): Promise<void> {
    await Promise.all(this.#threads.splice(0).map(({ worker }) => worker.terminate()));
  }
}

/** Blocks on their way to a file: gathered in batches, packed by several threads, then stored. Memory is bounded. */
import os from 'node:os';
import type { Bytes } from '../../src/base/contracts.ts';
import { type Batch, JOB, newBatch, type PackSpec } from './pack.ts';
import { Packers } from './packers.ts';

/** Plain bytes of a batch, unless one block is longer. */
export const BATCH = 2 ** 20;

/** A block to pack. The counter is one of its own, when blocks are encrypted. */
export interface Job {
  readonly disk: number;
  readonly block: number;
  readonly counter: number;
}

interface Filling<T> {
  readonly batch: Batch;
  readonly jobs: T[];
}

/** The first failure is kept, and thrown by whatever is called next. */
export class Batches<T extends Job> {
  readonly #blockSize: Bytes;
  readonly #perBatch: number;
  readonly #packers: Packers;
  readonly #store: (batch: Batch, jobs: readonly T[]) => Promise<void>;
  readonly #free: Batch[] = [];
  #made = 0;
  readonly #most: number;
  #filling: Filling<T> | null = null;
  #waiting: (() => void)[] = [];
  readonly #running = new Set<Promise<void>>();
  #failure: { readonly error: unknown } | null = null;

  /** `store` gets every batch once its records are there; the batch is used again when that is done. */
  constructor(spec: PackSpec, store: (batch: Batch, jobs: readonly T[]) => Promise<void>, packers = new Packers(spec)) {
    this.#blockSize = spec.blockSize;
    this.#perBatch = Math.max(1, Math.floor(BATCH / spec.blockSize));
    this.#packers = packers;
    this.#store = store;
    // One for each thread, one for each to go on with, one that is filled, one that is stored.
    this.#most = 2 * os.availableParallelism() + 2;
  }

  /** Throws what any earlier work failed with. */
  check(): void {
    if (this.#failure !== null) throw this.#failure.error;
  }

  /** Takes a copy of `plain`; waits while all batches are under way. */
  async add(job: T, plain: Uint8Array): Promise<void> {
    let filling = this.#room();
    while (filling === null) {
      await new Promise<void>(resolve => this.#waiting.push(resolve));
      this.check();
      filling = this.#room();
    }
    const { batch, jobs } = filling;
    batch.plain.set(plain, jobs.length * this.#blockSize);
    batch.jobs.set([job.disk, job.block, plain.length, job.counter], jobs.length * JOB);
    jobs.push(job);
    if (jobs.length === this.#perBatch) this.#send();
  }

  #room(): Filling<T> | null {
    if (this.#filling !== null) return this.#filling;
    let batch = this.#free.pop();
    if (batch === undefined && this.#made < this.#most) {
      batch = newBatch(this.#perBatch, this.#blockSize);
      this.#made++;
    }
    if (batch !== undefined) this.#filling = { batch, jobs: [] };
    return this.#filling;
  }

  #send(): void {
    const { batch, jobs } = this.#filling!;
    this.#filling = null;
    const running = this.#run(batch, jobs)
      .catch((error: unknown) => {
        this.#failure ??= { error };
      })
      .finally(() => {
        this.#running.delete(running);
        this.#free.push(batch);
        for (const wake of this.#waiting.splice(0)) wake();
      });
    this.#running.add(running);
  }

  async #run(batch: Batch, jobs: readonly T[]): Promise<void> {
    const packing = this.#packers.pack(batch, jobs.length);
    if (packing instanceof Promise) await packing;
    await this.#store(batch, jobs);
  }

  /** Resolves when all that was added is stored. */
  async drain(): Promise<void> {
    if (this.#filling !== null && this.#filling.jobs.length > 0) this.#send();
    while (this.#running.size > 0) await Promise.all(this.#running);
    this.check();
  }

  /** Ends the threads. */
  end(): Promise<void> {
    return this.#packers.end();
  }
}

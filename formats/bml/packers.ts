/** Threads that pack blocks, one for each core, started when there is enough to do. */
import { Threads } from '../../src/base/threads/threads.ts';
import { type Batch, type PackSpec, packBatch } from './pack.ts';
import type { Order } from './pack-worker.ts';

/** So many batches are packed in the caller's thread: small layers are done before a thread would have started. */
const AT_HOME = 4;

export class Packers {
  readonly #spec: PackSpec;
  readonly #threads: Threads<Order, null>;
  #batches = 0;

  constructor(spec: PackSpec, threads?: number) {
    this.#spec = spec;
    const program = new URL('./pack-worker.ts', import.meta.url);
    const most = threads === undefined ? {} : { most: threads };
    this.#threads = new Threads({ program, what: 'packs blocks', data: spec, ...most });
  }

  /** The records of the batch are there when it is done. Rejects when packing fails, or its thread ends. */
  async pack(batch: Batch, count: number): Promise<void> {
    if (this.#batches++ < AT_HOME || this.#threads.most === 0) packBatch(this.#spec, batch, count);
    else await this.#threads.send(this.#threads.next(), { batch, count }, 1);
  }

  end(): Promise<void> {
    return this.#threads.end();
  }
}

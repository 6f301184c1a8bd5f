/** A thread that packs blocks. What it knows comes with its start; batches come one message each. */
import { workerData } from 'node:worker_threads';
import { serveThread } from '../../src/base/threads/thread.ts';
import { type Batch, type PackSpec, packBatch } from './pack.ts';

export interface Order {
  readonly batch: Batch;
  readonly count: number;
}

serveThread(({ batch, count }: Order): null => {
  packBatch(workerData as PackSpec, batch, count);
  return null;
});

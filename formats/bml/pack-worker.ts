/** A thread that packs blocks. What it knows comes with its start; batches come one message each. */
import { parentPort, workerData } from 'node:worker_threads';
import { type Batch, type PackSpec, packBatch } from './pack.ts';

export interface Order {
  readonly batch: Batch;
  readonly count: number;
}

if (parentPort !== null) {
  const port = parentPort;
  const spec = workerData as PackSpec;
  port.on('message', ({ batch, count }: Order) => {
    packBatch(spec, batch, count);
    port.postMessage(null);
  });
}

/** A thread that opens records. */
import type { KeyObject } from 'node:crypto';
import { parentPort } from 'node:worker_threads';
import { type Opening, openInto } from './opening.ts';

/** The body lies at the start of `slot`, and the block takes its place. */
export interface Order {
  readonly slot: SharedArrayBuffer;
  readonly body: number;
  /** 0: not encrypted. */
  readonly key: number;
  readonly opening: Omit<Opening, 'key'>;
}

export interface Orders {
  readonly orders: readonly Order[];
  /** Keys that the thread has not been given yet, by number. */
  readonly keys: readonly (readonly [number, KeyObject])[];
}

/** That it has started, or why each block of an order could not be opened; null: it was. */
export type Told = 'ready' | readonly (string | null)[];

if (parentPort !== null) {
  const port = parentPort;
  const keys = new Map<number, KeyObject>();
  port.on('message', (message: Orders) => {
    for (const [number, key] of message.keys) keys.set(number, key);
    const faults = message.orders.map(({ slot, body, key, opening }): string | null => {
      const bytes = new Uint8Array(slot);
      return openInto(bytes, bytes.subarray(0, body), { ...opening, key: key === 0 ? null : keys.get(key)! });
    });
    port.postMessage(faults satisfies Told);
  });
  port.postMessage('ready' satisfies Told);
}

/** What a thread that opens blocks is told, and how it answers. */
import type { KeyObject } from 'node:crypto';
import type { Bytes } from '../contracts.ts';

/** A block to be opened in a thread: the memory of both is shared. `opening` says how. */
export interface Ordered<O> {
  readonly body: Uint8Array;
  readonly into: Uint8Array;
  readonly opening: O;
}

/** Several blocks to open, in numbers, since every object of a message costs time. */
export interface Orders {
  /** As many for each block. */
  readonly numbers: Float64Array<ArrayBuffer>;
  /** For each what is no number. */
  readonly about: Uint8Array<ArrayBuffer>;
  /** Memory and keys that the thread has not been given yet, by the numbers that the orders have for them. */
  readonly memory: readonly (readonly [number, SharedArrayBuffer])[];
  readonly keys: readonly (readonly [number, KeyObject])[];
  /** Numbers of memory that it needs no longer. */
  readonly forget: readonly number[];
}

/** Why each block could not be opened; null: it was. */
export type Faults = readonly (string | null)[];

/** Numbers for memory and keys. */
export interface Numbers {
  memory(buffer: ArrayBufferLike): number;
  key(key: KeyObject): number;
}

/** The work of a kind of threads. */
export interface Kind<O extends { readonly length: Bytes }> {
  /** Serves `Orders` with `Faults`. */
  readonly program: URL;
  /** Fills `into`, which has the length that `opening` says and no byte in common with `body`. A string says why not; what is in it then is not to be used. */
  openInto(into: Uint8Array, body: Uint8Array, opening: O): string | null;
  ordersOf(all: readonly Ordered<O>[], of: Numbers): Pick<Orders, 'numbers' | 'about'>;
}

/** What the numbers in orders mean to a thread. */
export class Known {
  readonly #memory = new Map<number, SharedArrayBuffer>();
  readonly #keys = new Map<number, KeyObject>();

  /** To be told of all orders. */
  learn({ memory, keys, forget }: Orders): void {
    for (const number of forget) this.#memory.delete(number);
    for (const [number, buffer] of memory) this.#memory.set(number, buffer);
    for (const [number, key] of keys) this.#keys.set(number, key);
  }

  bytes(memory: number, at: Bytes, length: Bytes): Uint8Array {
    return new Uint8Array(this.#memory.get(memory)!, at, length);
  }

  key(number: number): KeyObject {
    return this.#keys.get(number)!;
  }
}

/** What a backup that was made to hurt is made of. */
import { gzipSync } from 'node:zlib';
import type { Adapter } from '../../../src/base/contracts.ts';
import { viewOf } from '../../../src/base/struct.ts';
import type { Files } from '../../fuzz/damage.ts';

export const MIB = 2 ** 20;
export const BOMB = Buffer.alloc(128 * MIB);
let packed: Uint8Array | null = null;
export const gzipped = (): Uint8Array => {
  packed ??= gzipSync(BOMB, { level: 1 });
  return packed;
};
export interface Hostile {
  readonly what: string;
  readonly adapter: Adapter;
  readonly name: string;
  files(): Files | Promise<Files>;
}

export const text = (content: string): Uint8Array => Buffer.from(content);

export function changed(file: Uint8Array, change: (view: DataView) => void): Uint8Array {
  const copy = new Uint8Array(file);
  change(viewOf(copy));
  return copy;
}

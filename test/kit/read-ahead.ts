import { setImmediate as turn } from 'node:timers/promises';
import { expect } from 'vitest';
import type { Adapter, Bytes, Keyring, Store } from '../../src/base/contracts.ts';
import { UnitCache } from '../../src/chain/cache.ts';
import { openRepository } from '../../src/chain/repository.ts';
import { random } from './random.ts';

const NO_KEYS: Keyring = { secrets: async () => [] };

export const AHEAD_CHUNK: Bytes = 32_768;
export const AHEAD_BAD = 140;

/** Chunks that become shorter, and that zlib is long about. */
export function aheadContent(): Uint8Array {
  const { below } = random(11);
  const content = new Uint8Array(180 * AHEAD_CHUNK);
  for (let at = 0; at < content.length; at += AHEAD_CHUNK) {
    const noisy = at + (3 * AHEAD_CHUNK) / 4;
    for (let i = at; i < noisy; i++) content[i] = below(16);
    content.fill(at / AHEAD_CHUNK, noisy, at + AHEAD_CHUNK);
  }
  return content;
}

/** Changes a byte of what the file holds as `stored`, so many from its end. */
export function spoil(file: Uint8Array, stored: Uint8Array, back: number): void {
  const at = Buffer.from(file.buffer, file.byteOffset, file.length).indexOf(stored);
  expect(at).toBeGreaterThan(0);
  file[at + stored.length - back]! ^= 0x40;
}

/**
 * Reads a disk of `aheadContent` front to back, chunk by chunk: what is decoded ahead is right, and chunk `AHEAD_BAD`, which
 * was among it, fails for whoever reads it, each time, and for nobody else.
 */
export async function checkAhead(adapter: Adapter, store: Store): Promise<void> {
  const content = aheadContent();
  const cache = new UnitCache(64 * 2 ** 20);
  const settled = async (): Promise<void> => {
    while (cache.ahead > 0) await turn();
  };
  await using repository = await openRepository(store, [adapter], NO_KEYS, { cache });
  const disk = await repository.sets[0]!.points[0]!.openDisk(0);
  const into = new Uint8Array(AHEAD_CHUNK);
  const read = async (chunk: number): Promise<void> => {
    into.fill(0xee);
    await disk.read(into, chunk * AHEAD_CHUNK);
    const wanted = content.subarray(chunk * AHEAD_CHUNK, (chunk + 1) * AHEAD_CHUNK);
    expect(Buffer.compare(into, wanted), `chunk ${chunk}`).toBe(0);
  };
  for (let chunk = 0; chunk < AHEAD_BAD; chunk++) {
    await read(chunk);
    await settled();
  }
  // All of it was asked for already, the bad one and what follows it among it.
  const { misses } = cache;
  expect(misses).toBe(180);
  for (let times = 0; times < 2; times++) {
    await expect(read(AHEAD_BAD)).rejects.toMatchObject({ fault: 'corrupt' });
    for (const beside of [AHEAD_BAD - 1, AHEAD_BAD + 1]) await read(beside);
  }
  await settled();
  for (let chunk = AHEAD_BAD + 1; chunk < 180; chunk++) await read(chunk);
}

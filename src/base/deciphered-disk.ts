/** An enciphered stretch of a disk as a plain disk. */
import type { Bytes, Disk, Done } from './contracts.ts';
import type { SectorCipher } from './sector-cipher.ts';

export interface DecipheredSpec {
  readonly id: string;
  readonly below: Pick<Disk, 'read' | 'sectorSize'>;
  /** Where the enciphered stretch begins on the disk below, and how long it is. */
  readonly start: Bytes;
  readonly size: Bytes;
  readonly cipher: SectorCipher;
}

/** What is left of a last sector that is not whole is no part of the disk. Closing it leaves the disk below open. */
export function decipheredDisk({ id, below, start, size, cipher }: DecipheredSpec): Disk {
  const { sectorSize } = cipher;
  const whole = size - (size % sectorSize);
  const aligned = (into: Uint8Array, at: Bytes): Done => {
    const pending = below.read(into, start + at);
    if (pending === undefined) cipher.decipher(into, at);
    else return pending.then(() => cipher.decipher(into, at));
  };
  return {
    id,
    size: whole,
    sectorSize: below.sectorSize,
    read(into, at) {
      const before = at % sectorSize;
      const length = Math.ceil((before + into.length) / sectorSize) * sectorSize;
      if (before === 0 && length === into.length) return aligned(into, at);
      const sectors = Buffer.allocUnsafe(length);
      const pending = aligned(sectors, at - before);
      if (pending === undefined) into.set(sectors.subarray(before, before + into.length));
      else return pending.then(() => into.set(sectors.subarray(before, before + into.length)));
    },
    // Zeros below are not zeros once deciphered.
    extent: (_at, limit) => ({ kind: 'data', length: limit }),
    async load() {},
    async [Symbol.asyncDispose]() {},
  };
}

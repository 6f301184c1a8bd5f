/** Free clusters of FAT12, FAT16 and FAT32 (by their tables) and of exFAT (by its bitmap). */
import type { Bytes } from '../../base/contracts.ts';
import { runsContent } from '../content.ts';
import { addClearBits, type FoundFree, freeRuns } from '../free.ts';
import { chainRuns, type FatGeometry } from './chain.ts';

const STEP = 65_536;

/** The second entry of FAT16 and FAT32 says so; Windows and Linux keep bits in the boot sector too. FAT12 has no such sign. */
export async function checkShutDown({ source, bits, fatAt }: FatGeometry): Promise<void> {
  const what = 'it was in use when the backup was made, or has errors';
  source.check(((await source.bytes(bits === 28 ? 0x41 : 0x25, 1))[0]! & 3) === 0, what);
  if (bits === 12) return;
  const entry = await source.bytes(fatAt + (bits === 16 ? 2 : 4), 4);
  const sound = bits === 16 ? entry.readUInt16LE(0) >= 0xc000 : (entry.readUInt32LE(0) & 0x0c00_0000) === 0x0c00_0000;
  source.check(sound, what, fatAt);
}

/** A cluster is free when every copy of the table says so. */
export async function freeByTable(geometry: FatGeometry, tables: readonly Bytes[], found: FoundFree): Promise<void> {
  const { source, bits, clusters, clusterSize, dataAt } = geometry;
  const runs = freeRuns(found);
  for (let first = 0; first < clusters + 2; first += STEP) {
    const count = Math.min(STEP, clusters + 2 - first);
    const used = new Uint8Array(STEP / 8);
    for (const table of tables) {
      const part = await source.bytes(table + (first * bitsOf(bits)) / 8, Math.ceil((count * bitsOf(bits)) / 8));
      for (let i = 0; i < count; i++) if (entryAt(part, i, bits) !== 0) used[i >> 3]! |= 1 << (i % 8);
    }
    // The first two entries stand for no cluster.
    if (first === 0) used[0]! |= 3;
    addClearBits(runs, used, count, dataAt + (first - 2) * clusterSize, clusterSize);
  }
  runs.end();
}

const bitsOf = (bits: FatGeometry['bits']): number => (bits === 28 ? 32 : bits);

function entryAt(table: Buffer, index: number, bits: FatGeometry['bits']): number {
  if (bits === 16) return table.readUInt16LE(index * 2);
  if (bits !== 12) return table.readUInt32LE(index * 4) & 0x0fff_ffff;
  const at = index + (index >> 1);
  const low = table[at]!;
  const high = table[at + 1] ?? 0;
  return index % 2 === 1 ? (low >> 4) | (high << 4) : low | ((high & 15) << 8);
}

/** `cluster`, `size`: where the bitmap lies. */
export async function freeByBitmap(
  geometry: FatGeometry,
  cluster: number,
  size: Bytes,
  found: FoundFree,
): Promise<void> {
  const { source, clusters, clusterSize, dataAt } = geometry;
  source.check(size >= Math.ceil(clusters / 8) && size <= source.size, `a bitmap of ${size} bytes`);
  const content = runsContent(source, await chainRuns(geometry, cluster, Math.ceil(size / clusterSize)), size);
  const runs = freeRuns(found);
  const step = new Uint8Array(STEP);
  for (let at = 0; at * 8 < clusters; at += STEP) {
    const bits = step.subarray(0, Math.min(STEP, size - at));
    await content.read(bits, at);
    addClearBits(runs, bits, Math.min(bits.length * 8, clusters - at * 8), dataAt + at * 8 * clusterSize, clusterSize);
  }
  runs.end();
}

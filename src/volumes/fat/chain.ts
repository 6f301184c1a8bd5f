/** Cluster chains of FAT12, FAT16, FAT32 and exFAT. */
import type { Bytes } from '../../base/contracts.ts';
import { type Runs, runsBuilder } from '../runs.ts';
import type { VolumeSource } from '../source.ts';

export interface FatGeometry {
  readonly source: VolumeSource;
  /** Bits of an entry: 12, 16, 28 (FAT32) or 32 (exFAT). */
  readonly bits: 12 | 16 | 28 | 32;
  /** Offset of the table in use. */
  readonly fatAt: Bytes;
  /** Offset of cluster 2. */
  readonly dataAt: Bytes;
  readonly clusterSize: number;
  /** Clusters there are; the last one's number is one more. */
  readonly clusters: number;
}

async function nextCluster({ source, bits, fatAt }: FatGeometry, cluster: number): Promise<number> {
  if (bits === 12) {
    const word = (await source.bytes(fatAt + cluster + Math.floor(cluster / 2), 2)).readUInt16LE(0);
    return cluster % 2 === 1 ? word >> 4 : word & 0xfff;
  }
  if (bits === 16) return (await source.bytes(fatAt + cluster * 2, 2)).readUInt16LE(0);
  const word = (await source.bytes(fatAt + cluster * 4, 4)).readUInt32LE(0);
  return bits === 28 ? word & 0x0fff_ffff : word;
}

/** First number that ends a chain. */
const endMark = (bits: FatGeometry['bits']): number =>
  bits === 12 ? 0xff8 : bits === 16 ? 0xfff8 : bits === 28 ? 0x0fff_fff8 : 0xffff_fff8;

const isCluster = ({ clusters }: FatGeometry, n: number): boolean => n >= 2 && n < clusters + 2;

/** Entries that are followed with one read of the table. */
const STEP = 4096;

/**
 * The chain from a cluster on, at most `most` clusters. One that ends early, leads to a free or bad cluster or runs in a
 * circle is 'corrupt': its file would be read in part.
 */
export async function chainRuns(geometry: FatGeometry, first: number, most: number): Promise<Runs> {
  const { source, clusterSize, dataAt, clusters, bits } = geometry;
  const builder = runsBuilder(source);
  const wanted = Math.min(most, clusters);
  let cluster = first;
  for (let n = 0; n < wanted; n++) {
    if (cluster >= endMark(bits) && n > 0) {
      source.check(most > clusters, `a chain of ${n} clusters where ${most} are needed`);
      break;
    }
    source.check(isCluster(geometry, cluster), `a chain leads to cluster ${cluster}`);
    builder.add(n * clusterSize, clusterSize, dataAt + (cluster - 2) * clusterSize);
    if (n + 1 === most) break;
    cluster = await follow(geometry, cluster);
    source.check(n + 1 < clusters || cluster >= endMark(bits), 'a chain of clusters has a loop');
  }
  const runs = builder.done();
  source.check(!sharesClusters(runs), 'a chain of clusters has a loop');
  return runs;
}

/** Whether two runs lie over each other on the volume. */
function sharesClusters(runs: Runs): boolean {
  const starts = new Float64Array(runs.count);
  const ends = new Float64Array(runs.count);
  for (let i = 0; i < runs.count; i++) {
    const { at, length } = runs.run(i);
    starts[i] = at;
    ends[i] = at + length;
  }
  // As many begin as have ended, wherever one begins: then no two are open at once.
  starts.sort();
  ends.sort();
  for (let i = 1; i < runs.count; i++) if (starts[i]! < ends[i - 1]!) return true;
  return false;
}

/** One entry; tables of 16 and 32 bits are read in stretches, so that a long chain does not wait for each. */
const stretches = new WeakMap<FatGeometry, { at: number; table: Buffer }>();

async function follow(geometry: FatGeometry, cluster: number): Promise<number> {
  const { source, bits, fatAt, clusters } = geometry;
  if (bits === 12) return nextCluster(geometry, cluster);
  const width = bits === 16 ? 2 : 4;
  let held = stretches.get(geometry);
  const first = Math.floor(cluster / STEP) * STEP;
  if (held === undefined || held.at !== first) {
    const count = Math.min(STEP, clusters + 2 - first);
    held = { at: first, table: await source.bytes(fatAt + first * width, count * width) };
    stretches.set(geometry, held);
  }
  const within = (cluster - first) * width;
  if (bits === 16) return held.table.readUInt16LE(within);
  const word = held.table.readUInt32LE(within);
  return bits === 28 ? word & 0x0fff_ffff : word;
}

/** Clusters that follow one another without a chain (exFAT). */
export function straightRuns({ source, clusterSize, dataAt, clusters }: FatGeometry, first: number, size: Bytes): Runs {
  const count = Math.ceil(size / clusterSize);
  source.check(first >= 2 && first - 2 + count <= clusters, 'a file leads outside the volume');
  const builder = runsBuilder(source);
  if (count > 0) builder.add(0, count * clusterSize, dataAt + (first - 2) * clusterSize);
  return builder.done();
}

/** Folders longer than this are no folders: 2^16 entries for FAT, 256 MiB for exFAT. */
export const LONGEST_FOLDER = 268_435_456;

/** Days and seconds as DOS packs them, taken as UTC: the volume does not say which time zone it was. */
export function dosTime(date: number, time: number, hundredths = 0): Date {
  if (date === 0) return new Date(0);
  const year = 1980 + (date >> 9);
  const ms = Date.UTC(year, ((date >> 5) & 15) - 1, date & 31, time >> 11, (time >> 5) & 63, (time & 31) * 2);
  return Number.isNaN(ms) ? new Date(0) : new Date(ms + hundredths * 10);
}

/** Host clusters of a file that is being written, given out in order, with their refcounts. */
import type { ByteFile, Bytes } from '../../src/base/contracts.ts';
import { viewOf } from '../../src/base/struct.ts';
import { putEntry } from './layout.ts';

const MOST_COUNT = 0xffff;

/** Counts are 16 bits wide. Only the refcount block that is growing is in memory; a full one goes to the file. */
export class HostSpace {
  readonly #file: ByteFile;
  readonly #clusterSize: Bytes;
  readonly #perBlock: number;
  #next = 0;
  #counts: DataView;
  /** Offsets of the blocks that are in the file already; the growing block is the next one. */
  readonly #places: Bytes[] = [];
  /** The cluster that takes packed data, and how much of it is used. */
  #packCluster = -1;
  #packUsed = 0;

  constructor(file: ByteFile, clusterSize: Bytes) {
    this.#file = file;
    this.#clusterSize = clusterSize;
    this.#perBlock = clusterSize / 2;
    this.#counts = new DataView(new ArrayBuffer(clusterSize));
  }

  /** Where the file ends so far. */
  get end(): Bytes {
    return this.#next * this.#clusterSize;
  }

  /** `clusters` contiguous clusters, each with refcount 1; returns their offset. At most half a refcount block at once. */
  async take(clusters: number): Promise<Bytes> {
    const first = this.#next;
    this.#next += clusters;
    for (let i = first; i < first + clusters; i++) await this.#count(i);
    return first * this.#clusterSize;
  }

  /** `length` bytes (at most a cluster) of packed data, which shares clusters with other packed data. */
  async takePacked(length: Bytes): Promise<Bytes> {
    const size = this.#clusterSize;
    const cluster = this.#packCluster;
    const growing = cluster >= 0 && this.#isGrowing(cluster) && this.#countOf(cluster) < MOST_COUNT;
    const at = cluster * size + this.#packUsed;
    const fits = this.#packUsed + length <= size;
    if (growing && (fits || (this.#next === cluster + 1 && this.#packUsed < size && this.#isGrowing(cluster + 1)))) {
      this.#bump(cluster);
      this.#packUsed += length;
      if (fits) return at;
      await this.take(1);
      this.#packCluster = cluster + 1;
      this.#packUsed -= size;
      return at;
    }
    const start = await this.take(1);
    this.#packCluster = start / size;
    this.#packUsed = length;
    return start;
  }

  /** Writes the last refcount block and the table. Nothing can be taken afterwards. */
  async finish(): Promise<{ readonly refcountsAt: Bytes; readonly refcountClusters: number }> {
    // Taking the table's and the last block's clusters can itself fill one more block.
    const refcountClusters = Math.ceil(((this.#places.length + 2) * 8) / this.#clusterSize);
    const refcountsAt = await this.take(refcountClusters);
    const last = await this.take(1);
    await this.#file.write(new Uint8Array(this.#counts.buffer), last);
    this.#places.push(last);
    const table = new Uint8Array(refcountClusters * this.#clusterSize);
    const view = viewOf(table);
    for (const [i, place] of this.#places.entries()) putEntry(view, i * 8, place, 0);
    await this.#file.write(table, refcountsAt);
    return { refcountsAt, refcountClusters };
  }

  #isGrowing(cluster: number): boolean {
    return Math.floor(cluster / this.#perBlock) === this.#places.length;
  }

  #countOf(cluster: number): number {
    return this.#counts.getUint16((cluster % this.#perBlock) * 2);
  }

  #bump(cluster: number): void {
    this.#counts.setUint16((cluster % this.#perBlock) * 2, this.#countOf(cluster) + 1);
  }

  async #count(cluster: number): Promise<void> {
    while (!this.#isGrowing(cluster)) {
      const place = this.#next++;
      await this.#file.write(new Uint8Array(this.#counts.buffer), place * this.#clusterSize);
      this.#places.push(place * this.#clusterSize);
      this.#counts = new DataView(new ArrayBuffer(this.#clusterSize));
      await this.#count(place);
    }
    this.#bump(cluster);
  }
}

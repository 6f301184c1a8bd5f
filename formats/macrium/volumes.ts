/** Partitions as volumes: their blocks, and the reserved sectors of FAT before them. */
import type { Volume } from '../../src/base/assemble.ts';
import { memorySource } from '../../src/base/assemble.ts';
import { blockLayer } from '../../src/base/block-layer.ts';
import type { Bytes, LayerId } from '../../src/base/contracts.ts';
import { lastAtOrBefore } from '../../src/base/range.ts';
import { contentLength, type Origin, readBlock } from './content.ts';
import type { PartitionDescription } from './description.ts';
import { type BlockIndex, type IndexPlace, reservedElements } from './index-table.ts';
import type { Place } from './keys.ts';
import type { Element } from './structs.ts';

export interface PartitionSpec {
  readonly id: LayerId;
  readonly origin: Origin;
  readonly diskNumber: number;
  readonly partition: PartitionDescription;
}

/** Block i at i times the block size. What a shorter last block leaves out are zeros. */
export function blocksVolume(spec: PartitionSpec, index: BlockIndex, count: number): Volume {
  const { id, origin } = spec;
  const { blockSize } = spec.partition;
  const layer = blockLayer({
    id,
    // Every block is packed, so that its MD5 is checked: nothing is read from a source directly.
    source: memorySource(origin.name, new Uint8Array(0)),
    size: count * blockSize,
    blockSize,
    blocks: index,
    async unpack(block, into) {
      const length = await readBlock(origin, await index.element(block), placeOf(spec, block), into);
      into.fill(0, length);
    },
  });
  return { blockSize, units: count, locate: layer.locate, load: layer.load, unpack: layer.unpack };
}

/** Reserved sectors are stored in blocks of up to so many bytes. */
export const MAX_RESERVED = 4_194_304;

/** What lies where in the run of reserved sectors. */
interface Run {
  /** Where each block starts, one after another; the blocks without content are left out. */
  readonly starts: readonly Bytes[];
  readonly numbers: readonly number[];
  readonly elements: readonly Element[];
  readonly end: Bytes;
}

const placeOf = ({ diskNumber, partition }: PartitionSpec, block: number): Place => ({
  disk: diskNumber,
  partition: partition.number,
  block,
});

/** Blocks without content are left out, as a restore does. */
async function measure(spec: PartitionSpec, index: IndexPlace): Promise<Run> {
  const { reservedLength } = spec.partition;
  const starts: Bytes[] = [];
  const numbers: number[] = [];
  const elements: Element[] = [];
  let end = 0;
  for (const [i, element] of (await reservedElements(index)).entries()) {
    if (end >= reservedLength) break;
    const length = await contentLength(spec.origin, element, placeOf(spec, i), MAX_RESERVED);
    if (length === 0) continue;
    starts.push(end);
    numbers.push(i);
    elements.push(element);
    end += length;
  }
  return { starts, numbers, elements, end: Math.min(end, reservedLength) };
}

/**
 * Reserved sectors, in units of the partition's block size. Their blocks are longer and each start where the one before
 * ends, so their lengths are looked up first; the last unpacked one is kept.
 */
export function reservedVolume(spec: PartitionSpec, index: IndexPlace): Volume {
  const { blockSize, reservedLength } = spec.partition;
  let run: Run | null = null;
  let running: Promise<Run> | null = null;
  let last: { readonly block: number; readonly content: Promise<Uint8Array> } | null = null;

  const measured = async (): Promise<Run> => {
    if (run !== null) return run;
    running ??= measure(spec, index).finally(() => {
      running = null;
    });
    run = await running;
    return run;
  };
  const contentOf = ({ elements, numbers }: Run, i: number): Promise<Uint8Array> => {
    if (last?.block === i) return last.content;
    const whole = new Uint8Array(MAX_RESERVED);
    const content = readBlock(spec.origin, elements[i]!, placeOf(spec, numbers[i]!), whole).then(length =>
      whole.subarray(0, length),
    );
    last = { block: i, content };
    content.catch(() => {
      if (last?.content === content) last = null;
    });
    return content;
  };
  return {
    blockSize,
    units: Math.ceil(reservedLength / blockSize),
    locate(at, limit) {
      if (run === null) return null;
      if (at >= run.end) return { kind: 'zero', length: limit };
      const within = at % blockSize;
      const length = Math.min(limit, blockSize - within, run.end - at);
      return { kind: 'packed', unit: Math.floor(at / blockSize), within, length };
    },
    async load() {
      await measured();
    },
    async unpack(unit, into) {
      const known = await measured();
      const from = unit * blockSize;
      const to = Math.min(from + into.length, known.end);
      into.fill(0, Math.max(0, to - from));
      for (let at = from; at < to; ) {
        const i = lastAtOrBefore(known.starts, at);
        const content = await contentOf(known, i);
        const part = content.subarray(at - known.starts[i]!).subarray(0, to - at);
        into.set(part, at - from);
        at += part.length;
      }
    },
  };
}

/**
 * Bytes that show where the volume's start has none stored: the boot track is as long as 63 sectors, whatever starts
 * in it, and a restore writes it first.
 */
export function overBytes(volume: Volume, name: string, under: Uint8Array): Volume {
  const source = memorySource(name, under);
  return {
    ...volume,
    locate(at, limit) {
      const found = volume.locate(at, limit);
      if (found?.kind !== 'zero' || at >= under.length) return found;
      return { kind: 'plain', source, at, length: Math.min(found.length, under.length - at) };
    },
  };
}

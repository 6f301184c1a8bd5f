/** Checking one file by itself: its metadata, its index, and every block that it holds. Finds all faults. */
import { createHash } from 'node:crypto';
import type { ByteSource, Bytes, Problem, Verified, VerifyRun } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { viewOf } from '../../src/base/struct.ts';
import { type Origin, ROOMS, readBlock } from './content.ts';
import type { Description, DiskDescription, PartitionDescription } from './description.ts';
import type { DiskMetadata } from './disk.ts';
import type { Member } from './files.ts';
import type { IndexPlace } from './index-table.ts';
import type { MetadataBlock, MetadataList } from './metadata.ts';
import { BLOCK_NUMBER, DELTA_ELEMENT, ELEMENT, elementAt } from './structs.ts';
import { MAX_RESERVED } from './volumes.ts';

export interface VerifyParts {
  readonly source: ByteSource;
  readonly member: Member;
  readonly root: MetadataList;
  readonly disks: readonly DiskMetadata[];
  readonly origin: Origin;
  /** Other files whose blocks nobody else checks: the data of a split backup. */
  readonly parts: readonly Member[];
  readonly locked: boolean;
}

interface Check extends VerifyParts {
  readonly run: VerifyRun;
  readonly total: Bytes;
  checked: number;
  bytes: Bytes;
  done: Bytes;
}

const CHUNK = 1_048_576;
/** Blocks that are checked at the same time. */
const LANES = 4;

function report(check: Check, error: unknown, where: Pick<Problem, 'disk' | 'block'> = {}): void {
  if (!(error instanceof ImageError)) throw error;
  const { file = check.source.name, at = 0 } = error.where;
  check.run.found({ fault: error.fault, message: error.message, file, offset: at, ...where });
}

function advance(check: Check, bytes: Bytes): void {
  check.run.signal.throwIfAborted();
  check.done = Math.min(check.total, check.done + bytes);
  check.run.progress(check.done, check.total);
}

async function checkMetadataBlock(check: Check, block: MetadataBlock): Promise<void> {
  const hash = createHash('md5');
  const buffer = new Uint8Array(Math.min(CHUNK, block.length));
  for (let done = 0; done < block.length; done += buffer.length) {
    const chunk = buffer.subarray(0, Math.min(buffer.length, block.length - done));
    await check.source.read(chunk, block.payloadAt + done);
    hash.update(chunk);
    advance(check, chunk.length);
  }
  check.checked++;
  check.bytes += block.length;
  if (block.length > 0 && !hash.digest().equals(block.md5)) {
    const where = { file: check.source.name, at: block.payloadAt };
    report(check, new ImageError('corrupt', `${block.name} fails its MD5`, where));
  }
}

interface Run {
  readonly disk: DiskDescription;
  readonly diskName: string;
  readonly partition: PartitionDescription;
  readonly limit: Bytes;
}

/** Checks the elements from `at` on: that they lie inside their file and, at level 3, what they hold. */
async function checkElements(check: Check, on: Run, at: Bytes, count: number, size: number): Promise<void> {
  const own = new Set([check.member.name, ...check.parts.map(part => part.name)]);
  const perChunk = Math.floor(CHUNK / size);
  const raw = new Uint8Array(Math.min(count, perChunk) * size);
  const view = viewOf(raw);
  for (let first = 0; first < count; first += perChunk) {
    const here = Math.min(perChunk, count - first);
    await check.source.read(raw.subarray(0, here * size), at + first * size);
    let next = 0;
    const lane = async (): Promise<void> => {
      while (next < here) {
        const i = next++;
        const block = size === ELEMENT ? first + i : view.getUint32(i * size + BLOCK_NUMBER, true);
        try {
          const element = elementAt(view, i * size, check.source.name, at + (first + i) * size);
          const holder = element.length === 0 ? null : check.origin.holder(element.fileNumber);
          if (holder !== null && own.has(holder.name)) await checkStored(check, on, element, holder, block);
        } catch (error) {
          report(check, error, { disk: on.diskName, block });
        }
      }
    };
    await Promise.all(Array.from({ length: LANES }, lane));
    check.run.signal.throwIfAborted();
  }
}

async function checkStored(
  check: Check,
  { disk, partition, limit }: Run,
  element: ReturnType<typeof elementAt>,
  holder: Member,
  block: number,
): Promise<void> {
  const { fileAt, length } = element;
  if (fileAt + length > holder.rootAt) {
    const message = `block ${block} of partition ${partition.number} reaches past the data of the file`;
    throw new ImageError('corrupt', message, { file: holder.name, at: fileAt });
  }
  if (check.run.level < 3 || check.locked) return;
  check.checked++;
  check.bytes += length;
  advance(check, length);
  const place = { disk: disk.number, partition: partition.number, block };
  await ROOMS.lend(limit, into => readBlock(check.origin, element, place, into));
}

async function checkIndexes(check: Check, description: Description): Promise<void> {
  for (const [i, disk] of description.disks.entries()) {
    for (const [j, partition] of disk.partitions.entries()) {
      const place: IndexPlace = check.disks[i]!.indexes[j]!;
      const on = { disk, diskName: `disk${i}`, partition };
      const { reserved, elements } = place;
      await checkElements(check, { ...on, limit: MAX_RESERVED }, reserved.at, reserved.count, ELEMENT);
      const size = place.delta ? DELTA_ELEMENT : ELEMENT;
      await checkElements(check, { ...on, limit: partition.blockSize }, elements.at, elements.count, size);
    }
  }
}

export async function verifyFile(parts: VerifyParts, run: VerifyRun): Promise<Verified> {
  const total = parts.parts.reduce((sum, part) => sum + part.size, parts.source.size);
  const check: Check = { ...parts, run, total, checked: 0, bytes: 0, done: 0 };
  for (const list of [parts.root, ...parts.disks.flatMap(disk => disk.lists)])
    for (const block of list.blocks) await checkMetadataBlock(check, block);
  if (run.level === 3 && parts.locked) {
    const where = { file: parts.source.name, at: 0 };
    report(check, new ImageError('locked', 'blocks cannot be checked without the password', where));
  }
  if (run.level >= 2) await checkIndexes(check, parts.member.description);
  return { checked: check.checked, bytes: check.bytes, whole: run.level === 3 && !parts.locked };
}

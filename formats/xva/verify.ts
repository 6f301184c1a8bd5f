/** The structure of an archive, and the checksums of its blocks. */
import type { Bytes, Verified, VerifyRun } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { type Archive, BLOCK } from './archive.ts';
import { readBlock } from './layer.ts';
import type { MachineDisk } from './machine.ts';

interface Walk {
  readonly archive: Archive;
  readonly run: VerifyRun;
  checked: number;
  bytes: Bytes;
}

function report({ archive, run }: Walk, error: unknown, disk?: string, block?: number): void {
  if (!(error instanceof ImageError)) throw error;
  const { file, at } = error.where;
  const problem = { fault: error.fault, message: error.message, file: file ?? archive.source.name, offset: at ?? 0 };
  run.found({ ...problem, ...(disk === undefined ? {} : { disk }), ...(block === undefined ? {} : { block }) });
}

async function checkBlocks(walk: Walk, ref: string, disk: string): Promise<void> {
  const { archive, run } = walk;
  const blocks = archive.blocks(ref);
  const into = new Uint8Array(BLOCK);
  for (let number = 0; number <= blocks.last; number++) {
    run.signal.throwIfAborted();
    const block = blocks.find(number);
    if (block === null) {
      number = (blocks.next(number) ?? blocks.last + 1) - 1;
      continue;
    }
    try {
      await readBlock(archive, block, into);
    } catch (error) {
      report(walk, error, disk, number);
    }
    walk.checked++;
    walk.bytes += block.length;
    run.progress(Math.min(block.at, archive.source.size), archive.source.size);
  }
}

/** The last block is always in the archive; a disk whose last one is missing was cut off. */
function checkEnd(walk: Walk, { ref, size }: MachineDisk, disk: string): void {
  const { archive } = walk;
  const { last } = archive.blocks(ref);
  const wanted = size === null ? last : Math.ceil(size / BLOCK) - 1;
  walk.checked++;
  if (last >= wanted) return;
  const message = `${ref} ends with block ${last}, where the description has ${wanted}`;
  report(walk, new ImageError('corrupt', message, { file: archive.source.name, at: archive.reached() }), disk);
}

/** Levels 1 and 2: the header of every member, and that no disk ends early. Level 3: the checksum of every block. */
export async function verifyArchive(
  archive: Archive,
  disks: readonly MachineDisk[],
  run: VerifyRun,
): Promise<Verified> {
  const walk: Walk = { archive, run, checked: 0, bytes: 0 };
  const fault = await archive.finish();
  if (fault !== null) report(walk, fault);
  for (const [i, disk] of disks.entries()) {
    const name = `disk${i}`;
    if (fault === null) checkEnd(walk, disk, name);
    if (run.level === 3) await checkBlocks(walk, disk.ref, name);
  }
  run.progress(archive.source.size, archive.source.size);
  return { checked: walk.checked, bytes: walk.bytes, whole: run.level === 3 && fault === null };
}

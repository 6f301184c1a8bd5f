/** Checking one VHDX by itself. */
import type { ByteSource, Bytes, Layer, VerifyRun } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { viewOf } from '../../src/base/struct.ts';
import { soundAt } from './header.ts';
import {
  BITMAP_SIZE,
  chunkRatio,
  ENTRY_SIZE,
  HEADERS_AT,
  MIB,
  PAGE,
  REGION_TABLE_SIZE,
  REGION_TABLES_AT,
  STATE,
} from './structs.ts';
import { type BlockMap, blockCount, entryIn, misplaced, offsetIn, stateIn, tableLength } from './table.ts';

/** Part of the table, and of the data, that is read at once. */
const PART = MIB;
const PER_PAGE = 32_768;

/** Numbers that were seen before, in pages of a bit each. */
function seenBefore(): (n: number) => boolean {
  const pages = new Map<number, Uint8Array>();
  return n => {
    const index = Math.floor(n / PER_PAGE);
    const page = pages.get(index) ?? new Uint8Array(PER_PAGE / 8);
    pages.set(index, page);
    const bit = n % PER_PAGE;
    const mask = 1 << (bit & 7);
    const seen = (page[bit >> 3]! & mask) !== 0;
    page[bit >> 3] = page[bit >> 3]! | mask;
    return seen;
  };
}

export interface VerifyParts {
  /** The file as it is, and as it is after its log was replayed. */
  readonly file: ByteSource;
  readonly source: ByteSource;
  readonly map: BlockMap;
  readonly layer: Layer;
}

interface Walk extends VerifyParts {
  readonly run: VerifyRun;
  readonly ratio: number;
  readonly count: { checked: number; bytes: Bytes };
  /** Whether a MiB of the file belongs to a block already. */
  readonly taken: (mib: number) => boolean;
  /** Whether a block of the chunk at hand needs the sector bitmap. */
  shared: boolean;
}

function report(walk: Walk, message: string, offset: Bytes, block?: number, fault = 'corrupt'): void {
  const found = { fault, message, file: walk.file.name, offset };
  walk.run.found(block === undefined ? found : { ...found, disk: 'disk0', block });
}

/** Both copies of what stands in the file twice; reading needs only one. */
async function checkCopies(walk: Walk): Promise<void> {
  const copies = [
    ...HEADERS_AT.map(at => ({ at, length: PAGE, text: 'head', what: 'header' })),
    ...REGION_TABLES_AT.map(at => ({ at, length: REGION_TABLE_SIZE, text: 'regi', what: 'region table' })),
  ];
  for (const { at, length, text, what } of copies) {
    const source = text === 'head' ? walk.file : walk.source;
    if ((await soundAt(source, at, length, text)) === null) report(walk, `the checksum of a ${what} does not hold`, at);
    walk.count.checked++;
    walk.count.bytes += length;
  }
}

function claim(walk: Walk, at: Bytes, length: Bytes): boolean {
  let free = true;
  for (let mib = at / MIB; mib * MIB < at + length; mib++) free = !walk.taken(mib) && free;
  return free;
}

function checkPlace(walk: Walk, entry: number, length: Bytes, entryAt: Bytes, what: string, block?: number): void {
  const at = offsetIn(entry);
  const wrong = misplaced(at, length, walk.source.size, walk.map.reserved);
  if (wrong !== null) report(walk, `${what} is said to lie ${wrong}`, entryAt, block);
  else if (!claim(walk, at, length)) report(walk, `${what} shares its place in the file, at ${at}`, entryAt, block);
}

function checkEntry(walk: Walk, slot: number, entry: number | null, entryAt: Bytes): void {
  const { map, ratio } = walk;
  const chunk = Math.floor(slot / (ratio + 1));
  const isBitmap = slot % (ratio + 1) === ratio;
  const block = isBitmap ? undefined : slot - chunk;
  if (entry === null) {
    report(walk, `entry ${slot} of the block table has bits without a meaning`, entryAt, block);
    return;
  }
  const state = stateIn(entry);
  if (block === undefined) {
    const what = `the sector bitmap of chunk ${chunk}`;
    if (walk.shared && state !== STATE.full) report(walk, `${what} is missing`, entryAt);
    if (map.differencing && state === STATE.full) checkPlace(walk, entry, BITMAP_SIZE, entryAt, what);
    walk.shared = false;
    return;
  }
  // Tables of disks with a parent have room for whole chunks.
  if (block >= blockCount(map)) return;
  const length = Math.min(map.blockSize, map.size - block * map.blockSize);
  const what = `block ${block} of the disk`;
  if (state === 4 || (state === STATE.partial && !map.differencing)) {
    report(walk, `${what} cannot be in state ${state}`, entryAt, block);
  } else if (state === STATE.full || state === STATE.partial) {
    walk.shared ||= state === STATE.partial;
    checkPlace(walk, entry, length, entryAt, what, block);
  }
}

async function checkTable(walk: Walk): Promise<void> {
  const { source, map, run, count } = walk;
  const part = new Uint8Array(Math.min(PART, tableLength(map)));
  for (let done = 0; done < tableLength(map); done += part.length) {
    run.signal.throwIfAborted();
    const now = part.subarray(0, Math.min(part.length, tableLength(map) - done));
    await source.read(now, map.tableAt + done);
    const view = viewOf(now);
    for (let at = 0; at < now.length; at += ENTRY_SIZE) {
      checkEntry(walk, (done + at) / ENTRY_SIZE, entryIn(view, at), map.tableAt + done + at);
    }
    count.checked += now.length / ENTRY_SIZE;
    count.bytes += now.length;
  }
}

/** Reads every byte that the file stores for the disk. */
async function checkData(walk: Walk): Promise<void> {
  const { layer, run, count } = walk;
  const buffer = new Uint8Array(PART);
  for (let at = 0; at < layer.size; ) {
    run.signal.throwIfAborted();
    const left = layer.size - at;
    try {
      await layer.load(at, left);
      const found = layer.locate(at, left);
      if (found === null) continue;
      const length = found.kind === 'plain' ? Math.min(found.length, PART) : found.length;
      if (found.kind === 'plain') {
        await found.source.read(buffer.subarray(0, length), found.at);
        count.bytes += length;
      }
      at += length;
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      const block = Math.floor(at / layer.blockSize);
      // What the table gets wrong was reported with the table.
      if (error.fault !== 'corrupt') report(walk, error.message, error.where.at ?? 0, block, error.fault);
      at = Math.min(layer.size, (block + 1) * layer.blockSize);
    }
    run.progress(at, layer.size);
  }
}

/**
 * Level 1: the checksums of headers and region tables, both copies. Level 2: also that every entry of the block table
 * makes sense and no two blocks share a place. Level 3: also that all data can be read; the format has no checksums over it.
 */
export async function verifyImage(parts: VerifyParts, run: VerifyRun): Promise<{ checked: number; bytes: Bytes }> {
  const { map } = parts;
  const count = { checked: 0, bytes: 0 };
  const ratio = chunkRatio(map.blockSize, map.sectorSize);
  const walk: Walk = { ...parts, run, ratio, count, taken: seenBefore(), shared: false };
  await checkCopies(walk);
  if (run.level >= 2) await checkTable(walk);
  if (run.level === 3) await checkData(walk);
  run.progress(map.size, map.size);
  return count;
}

/** Whether an XFS log has anything to replay. "XFS Algorithms & Data Structures", Journaling Log. */
import type { Bytes } from '../../base/contracts.ts';
import type { Xfs } from './filesystem.ts';

const BASIC_BLOCK = 512;
const RECORD_MAGIC = 0xfeedbabe;
const UNMOUNT_OPERATION = 0x20;
/** A record is at most 256 KiB, and its headers. */
const LONGEST_RECORD = 270_336;

interface Log {
  /** Offset in the volume. */
  readonly at: Bytes;
  readonly blocks: number;
}

function logOf({ source, superblock, blockSize }: Xfs): Log | null {
  const { logStart, logBlocks, groupBlocks, groupBlocksLog } = superblock;
  // A log on another device cannot be looked at.
  if (logStart === 0 || logBlocks === 0) return null;
  const span = 2 ** groupBlocksLog;
  const at = (Math.floor(logStart / span) * groupBlocks + (logStart % span)) * blockSize;
  source.check(at + logBlocks * blockSize <= source.size, 'the log leads outside the volume', at);
  return { at, blocks: (logBlocks * blockSize) / BASIC_BLOCK };
}

/**
 * Where the next record would go. Every block begins with the number of its round through the log: blocks before the
 * head have a higher one than those from the head on.
 */
async function headOf({ source }: Xfs, { at, blocks }: Log): Promise<number> {
  const round = async (block: number): Promise<number> => {
    const words = await source.bytes(at + block * BASIC_BLOCK, 8);
    const first = words.readUInt32BE(0);
    return first === RECORD_MAGIC ? words.readUInt32BE(4) : first;
  };
  const newest = await round(0);
  if ((await round(blocks - 1)) === newest) return blocks;
  let low = 0;
  let high = blocks - 1;
  while (high - low > 1) {
    const middle = low + Math.floor((high - low) / 2);
    if ((await round(middle)) === newest) low = middle;
    else high = middle;
  }
  return high;
}

/** Clean: the last record before the head says that the file system was unmounted, or there is none at all. */
export async function isCleanLog(xfs: Xfs): Promise<boolean> {
  const log = logOf(xfs);
  if (log === null) return false;
  const head = await headOf(xfs, log);
  const first = Math.max(0, head - LONGEST_RECORD / BASIC_BLOCK);
  const part = await xfs.source.bytes(log.at + first * BASIC_BLOCK, (head - first) * BASIC_BLOCK);
  for (let at = part.length - BASIC_BLOCK; at >= 0; at -= BASIC_BLOCK) {
    if (part.readUInt32BE(at) !== RECORD_MAGIC) continue;
    // Headers take a block for each 32 KiB of data; the first operation follows them.
    const operation = at + Math.max(1, Math.ceil(part.readUInt32BE(at + 320) / 32_768)) * BASIC_BLOCK;
    const flags = operation + 10 <= part.length ? part[operation + 9]! : 0;
    return part.readUInt32BE(at + 40) === 1 && (flags & UNMOUNT_OPERATION) !== 0;
  }
  return part.every(byte => byte === 0);
}

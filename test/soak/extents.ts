/**
 * `node extents.ts FOLDER COUNT`: an overlay over 2 TiB gets COUNT random blocks of 4 KiB, in a process of its own so that
 * its memory can be measured. The maps are real; the data file takes the writes and keeps nothing, or 10 million blocks
 * would need 40 GB of disk. Prints one JSON line.
 */
import path from 'node:path';
import type { Disk } from '../../src/base/contracts.ts';
import { bootId } from '../../src/base/files.ts';
import { localOverlayFiles, type OverlayFile, type OverlayFiles } from '../../src/overlay/files.ts';
import { openOverlayOn } from '../../src/overlay/overlay.ts';
import { seeded } from '../../src/overlay/overlay-model.ts';

export interface ExtentsResult {
  readonly blocks: number;
  readonly seconds: number;
  /** Highest resident set of the process, in bytes. */
  readonly rss: number;
  readonly flushMs: number;
  /** Opening what a killed process left, and what one left that ended by itself. */
  readonly openKilledMs: number;
  readonly openMs: number;
  readonly found: number;
}

const SIZE = 2 * 2 ** 40;
const BLOCK = 4096;
const [folder, count] = [process.argv[2]!, Number(process.argv[3])];

const zeros: Disk = {
  id: 'zeros',
  size: SIZE,
  sectorSize: 512,
  extent: (_at, limit) => ({ kind: 'zero', length: limit }),
  load: async () => {},
  read: into => void into.fill(0),
  async [Symbol.asyncDispose]() {},
};

/** Data goes nowhere. */
function sinkFor(name: string): OverlayFile {
  return {
    name,
    size: SIZE,
    read: into => void into.fill(0),
    readNow: into => void into.fill(0),
    write() {},
    async lengthen() {},
    async sync() {},
    punch() {},
    allocated: () => 0,
    async close() {},
  };
}
const onDisk = localOverlayFiles(path.join(folder, 'overlay'));
const files: OverlayFiles = {
  ...onDisk,
  open: (name, mode) => (name.startsWith('data') ? sinkFor(name) : onDisk.open(name, mode)),
  names: () => [...onDisk.names(), 'data'],
};
const open = (create: boolean): ReturnType<typeof openOverlayOn> =>
  openOverlayOn({ files: create ? onDiskWithSink() : files, boot: bootId(), lock: { release() {} } }, zeros, {
    create,
  });
/** When it is made there must be no data file yet. */
function onDiskWithSink(): OverlayFiles {
  return { ...files, names: onDisk.names };
}

const timed = async <T>(work: () => Promise<T>): Promise<[T, number]> => {
  const began = performance.now();
  const value = await work();
  return [value, performance.now() - began];
};

const overlay = await open(true);
const random = seeded(1);
const block = new Uint8Array(BLOCK).fill(1);
const [, wrote] = await timed(async () => {
  for (let i = 0; i < count; i++) {
    await overlay.write(block, Math.floor(random() * (SIZE / BLOCK)) * BLOCK);
    if (i % 100_000 === 0) await new Promise(resolve => setImmediate(resolve));
  }
});
// As after a kill: nothing of this process's memory is used.
const [killed, openKilledMs] = await timed(() => open(false));
const { dataBytes } = await killed.stats();
const [, flushMs] = await timed(() => overlay.flush());
await overlay.close();
const [, openMs] = await timed(() => open(false));
const result: ExtentsResult = {
  blocks: count,
  seconds: wrote / 1000,
  rss: process.resourceUsage().maxRSS * 1024,
  flushMs,
  openKilledMs,
  openMs,
  found: dataBytes / BLOCK,
};
process.stdout.write(`${JSON.stringify(result)}\n`);
process.exit(0);

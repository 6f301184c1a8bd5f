/** Free clusters of an NTFS volume: `$Bitmap`. Source: libfsntfs; Linux-NTFS, "$LogFile", "$Volume". */
import type { FoundFree } from '../free.ts';
import { addClearBits, freeRuns } from '../free.ts';
import type { Ntfs } from './filesystem.ts';
import { TYPE } from './records.ts';

const VOLUME = 3;
const LOG = 2;
const BITMAP = 6;
const VOLUME_INFORMATION = 0x70;
const DIRTY = 1;
const CLEAN = 2;
const NO_CLIENT = 0xffff;
const STEP = 1_048_576;
const RESTART_PAGES = 2 * 4096;

/** Whether the log has nothing that would still change the bitmap. */
async function isCleanLog(ntfs: Ntfs): Promise<boolean> {
  const data = await ntfs.attribute(await ntfs.record(LOG), TYPE.data, '');
  if (data === null || data.size < RESTART_PAGES) return false;
  const pages = Buffer.alloc(RESTART_PAGES);
  await ntfs.content(data).read(pages, 0);
  // Never used, or emptied by a tool.
  if (pages.every(byte => byte === 0xff)) return true;
  for (const at of [0, 4096]) {
    if (pages.toString('latin1', at, at + 4) !== 'RSTR') return false;
    const area = at + pages.readUInt16LE(at + 24);
    if (area + 16 > pages.length) return false;
    const clean = (pages.readUInt16LE(area + 14) & CLEAN) !== 0 || pages.readUInt16LE(area + 12) === NO_CLIENT;
    if (!clean) return false;
  }
  return true;
}

export async function free(ntfs: Ntfs, found: FoundFree): Promise<void> {
  const { source, clusterSize } = ntfs;
  const volume = await ntfs.record(VOLUME);
  const flags = volume.attributes.find(({ type }) => type === VOLUME_INFORMATION)?.resident?.readUInt16LE(10);
  source.check(flags !== undefined && (flags & DIRTY) === 0, 'it is marked as one that has to be checked');
  source.check(
    await isCleanLog(ntfs),
    'it was in use when the backup was made, or Windows sleeps: its log is not clean',
  );
  const bitmap = source.need(await ntfs.attribute(await ntfs.record(BITMAP), TYPE.data, ''), 'there is no $Bitmap');
  const clusters = Math.floor(source.size / clusterSize);
  const content = ntfs.content(bitmap);
  source.check(
    content.size <= clusters / 8 + 16 && bitmap.valid >= bitmap.size,
    'the bitmap of clusters has no sound size',
  );
  const runs = freeRuns(found);
  const step = new Uint8Array(STEP);
  for (let at = 0; at < content.size; at += STEP) {
    const bits = step.subarray(0, Math.min(STEP, content.size - at));
    await content.read(bits, at);
    addClearBits(runs, bits, Math.min(bits.length * 8, clusters - at * 8), at * 8 * clusterSize, clusterSize);
  }
  runs.end();
}

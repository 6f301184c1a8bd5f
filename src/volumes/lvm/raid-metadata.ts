/** What the metadata volumes of a RAID volume say of its legs. Source: Linux, drivers/md/dm-raid.c, `struct dm_raid_superblock`. */
import { bits64le, struct, u32le } from '../../base/struct.ts';
import type { Stretch } from '../stretch.ts';

const MAGIC = 0x64526d44;
const COMPLETE = 0xffff_ffff_ffff_ffffn;

const Superblock = struct('dm-raid superblock', 48, {
  magic: [0, u32le],
  position: [12, u32le],
  events: [16, bits64le],
  failed: [24, bits64le],
  recoveryAt: [32, bits64le],
});

/** Indexes of legs that failed, or were being filled: the newest superblock says which. */
export async function untrustedLegs(metadata: readonly (Stretch | null)[]): Promise<ReadonlySet<number>> {
  const out = new Set<number>();
  let newest = -1n;
  let failed = 0n;
  for (const [i, stretch] of metadata.entries()) {
    if (stretch === null || stretch.size < 4096) continue;
    const raw = Buffer.alloc(4096);
    await stretch.disk.read(raw, stretch.start);
    // One that was never written: the array was not used yet.
    if (raw.readUInt32LE(0) !== MAGIC) continue;
    const { events, failed: its, recoveryAt } = Superblock.parse(raw);
    if (recoveryAt !== COMPLETE) out.add(i);
    if (events > newest) [newest, failed] = [events, its];
  }
  for (let i = 0; i < Math.min(64, metadata.length); i++) if (((failed >> BigInt(i)) & 1n) === 1n) out.add(i);
  return out;
}

/** Internal snapshots (QEMU docs/interop/qcow2.txt, "Snapshots"). */
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { bits64be, struct, u16be, u32be, u64be } from '../../src/base/struct.ts';
import { type Qcow2Header, tablesFor } from './header.ts';

const Entry = struct('QCOW2 snapshot', 40, {
  l1At: [0, u64be],
  l1Entries: [8, u32be],
  idLength: [12, u16be],
  nameLength: [14, u16be],
  seconds: [16, u32be],
  nanoseconds: [20, u32be],
  guestClock: [24, bits64be],
  stateSize: [32, u32be],
  extraLength: [36, u32be],
});

export interface Snapshot {
  readonly id: string;
  readonly name: string;
  readonly time: Date;
  readonly l1At: Bytes;
  /** Guest size at the time; the image may have been resized since. */
  readonly size: Bytes;
}

/** QEMU's limits for one entry and for the whole table. */
const MAX_EXTRA = 1024;
const MAX_TABLE: Bytes = 64 * 2 ** 20;
/** L1 tables are read when the image is opened, so all of them together are bounded. */
const MAX_L1: Bytes = 256 * 2 ** 20;

/** All snapshots in the order of the table, which is the order in which they were taken. */
export async function readSnapshots(source: ByteSource, header: Qcow2Header): Promise<readonly Snapshot[]> {
  const out: Snapshot[] = [];
  const ids = new Set<string>();
  let l1Total = 0;
  let at = header.snapshotsAt;
  for (let i = 0; i < header.snapshots; i++) {
    const where = { file: source.name, at, field: 'snapshot table' };
    const broken = (why: string): ImageError => new ImageError('corrupt', `snapshot ${i} ${why}`, where);
    if (at + Entry.size > source.size) throw broken('lies past the end of the file');
    if (at - header.snapshotsAt > MAX_TABLE) throw broken('makes the snapshot table larger than 64 MiB');
    const head = new Uint8Array(Entry.size);
    await source.read(head, at);
    const entry = Entry.parse(head, 0, source.name);
    const length = entry.extraLength + entry.idLength + entry.nameLength;
    if (entry.extraLength > MAX_EXTRA || at + Entry.size + length > source.size) throw broken('leaves the file');
    const rest = new Uint8Array(length);
    await source.read(rest, at + Entry.size);
    const id = Buffer.from(rest.subarray(entry.extraLength, entry.extraLength + entry.idLength)).toString();
    const name = Buffer.from(rest.subarray(entry.extraLength + entry.idLength)).toString();
    const size = entry.extraLength >= 16 ? u64be.read(new DataView(rest.buffer), 8) : header.size;
    const l1Bytes = tablesFor(header, size) * 8;
    if (entry.l1Entries * 8 < l1Bytes) throw broken(`has ${entry.l1Entries} L1 entries, its disk needs ${l1Bytes / 8}`);
    if (entry.l1At % header.clusterSize !== 0 || entry.l1At + l1Bytes > source.size)
      throw broken(`has its L1 table at ${entry.l1At}, which is not possible`);
    if (ids.has(id)) throw broken(`has the id "${id}" of another one`);
    ids.add(id);
    l1Total += l1Bytes;
    if (l1Total > MAX_L1) throw new ImageError('unsupported', 'the L1 tables of the snapshots exceed 256 MiB', where);
    const time = new Date(entry.seconds * 1000 + Math.floor(entry.nanoseconds / 1e6));
    out.push({ id, name, time, l1At: entry.l1At, size });
    at += Math.ceil((Entry.size + length) / 8) * 8;
  }
  return out;
}

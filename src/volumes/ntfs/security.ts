/**
 * What NTFS keeps beside a file's content, under the names that ntfs-3g gives it: the security descriptor ([MS-DTYP] 2.4.6),
 * the file's attributes and its reparse point. Source: libfsntfs, "$Secure metadata file"; Linux-NTFS, "$Secure".
 */
import { wholeOf } from '../content.ts';
import type { Xattrs } from '../contracts.ts';
import { XattrList } from '../xattrs.ts';
import type { Ntfs } from './filesystem.ts';
import { eachNode, entriesOf } from './index-nodes.ts';
import { FLAG_DIR, type Record, TYPE } from './records.ts';

const SECURE = 9;
const INDEX = '$SII';
/** In messages. */
const WHAT = '$Secure';
const STREAM = '$SDS';
/** Where an entry of the index says how long the descriptor is and where it begins. */
const VALUE = { id: 4, offset: 8, size: 16, length: 20 } as const;
const ENTRY_HEADER = 20;
const LARGEST_INDEX = 67_108_864;
const LARGEST_BITMAP = 65_536;
const LONGEST_DESCRIPTOR = 65_536;
const LONGEST_REPARSE = 16_384;
const SECURITY_ID_AT = 52;
const ATTRIBUTE_DIR = 0x10;

interface Place {
  readonly offset: number;
  readonly size: number;
}

function placesIn(ntfs: Ntfs, bytes: Buffer, out: Map<number, Place>): void {
  for (const { at, length } of entriesOf(ntfs, bytes, WHAT)) {
    const value = at + bytes.readUInt16LE(at);
    if (value + VALUE.length > at + length) continue;
    const offset = Number(bytes.readBigUInt64LE(value + VALUE.offset));
    out.set(bytes.readUInt32LE(value + VALUE.id), { offset, size: bytes.readUInt32LE(value + VALUE.size) });
  }
}

/** Where the descriptor of each security id lies. */
async function readPlaces(ntfs: Ntfs): Promise<ReadonlyMap<number, Place>> {
  const out = new Map<number, Place>();
  const bounds = { largest: LARGEST_INDEX, largestBitmap: LARGEST_BITMAP };
  const index = { record: await ntfs.record(SECURE), name: INDEX, what: WHAT, ...bounds };
  await eachNode(ntfs, index, bytes => placesIn(ntfs, bytes, out));
  return out;
}

const known = new WeakMap<Ntfs, Promise<ReadonlyMap<number, Place>>>();

function placesOf(ntfs: Ntfs): Promise<ReadonlyMap<number, Place>> {
  let places = known.get(ntfs);
  if (places === undefined) {
    places = readPlaces(ntfs);
    places.catch(() => known.delete(ntfs));
    known.set(ntfs, places);
  }
  return places;
}

async function sharedDescriptor(ntfs: Ntfs, id: number): Promise<Buffer> {
  const { source } = ntfs;
  const { offset, size } = source.need((await placesOf(ntfs)).get(id), `there is no security descriptor ${id}`);
  const sound = Number.isSafeInteger(offset) && size >= ENTRY_HEADER && size <= LONGEST_DESCRIPTOR;
  source.check(sound, `security descriptor ${id} has no sound place`);
  const stream = source.need(await ntfs.attribute(await ntfs.record(SECURE), TYPE.data, STREAM), 'there is no $SDS');
  const content = ntfs.content(stream);
  source.check(offset + size <= content.size, `security descriptor ${id} lies outside $SDS`);
  const entry = Buffer.alloc(size);
  await content.read(entry, offset);
  source.check(entry.readUInt32LE(4) === id, `security descriptor ${id} is that of another`);
  return entry.subarray(ENTRY_HEADER);
}

async function descriptorOf(ntfs: Ntfs, record: Record, standard: Buffer): Promise<Buffer | null> {
  const own = await ntfs.attribute(record, TYPE.security, '');
  if (own !== null) return wholeOf(ntfs.source, ntfs.content(own), LONGEST_DESCRIPTOR);
  const id = standard.length >= SECURITY_ID_AT + 4 ? standard.readUInt32LE(SECURITY_ID_AT) : 0;
  return id === 0 ? null : sharedDescriptor(ntfs, id);
}

export async function xattrsOf(ntfs: Ntfs, record: Record): Promise<Xattrs> {
  const list = new XattrList(ntfs.source);
  const found = record.attributes.find(({ type }) => type === TYPE.standard)?.resident;
  const standard = ntfs.source.need(found, `file record ${record.number} has no times`);
  const flags = Buffer.from(standard.subarray(32, 36));
  // Kept with the record, and shown with the others.
  if ((record.flags & FLAG_DIR) !== 0) flags[0]! |= ATTRIBUTE_DIR;
  list.add('system.ntfs_attrib', flags);
  const descriptor = await descriptorOf(ntfs, record, standard);
  if (descriptor !== null) list.add('system.ntfs_acl', descriptor);
  const reparse = await ntfs.attribute(record, TYPE.reparse, '');
  if (reparse !== null) list.add('system.ntfs_reparse_data', await ntfs.value(reparse, LONGEST_REPARSE));
  return list.found;
}

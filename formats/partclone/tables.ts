/** Partition tables as Clonezilla saves them: the dump of sfdisk, the first and last sectors of the disk, parted's text. */
import type { BytesPart } from '../../src/base/assemble.ts';
import type { Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { backupGpt, type Gpt, guidBytes, makeGpt, makeMbr, readGpt } from '../../src/base/partition-table.ts';
import { roundUp } from '../../src/base/range.ts';
import { safeU64, viewOf } from '../../src/base/struct.ts';
import { extendedParts } from './extended.ts';
import { type Folder, smallFile, textFile } from './folder.ts';

export interface Partition {
  readonly number: number;
  readonly at: Bytes;
  readonly length: Bytes;
  /** Hexadecimal for an MBR, a GUID for a GPT. */
  readonly type: string;
  readonly active: boolean;
  /** GUID of the partition itself, where there is one. */
  readonly id: string | null;
}

export interface DiskTable {
  readonly size: Bytes;
  readonly sectorSize: 512 | 4096;
  readonly partitions: readonly Partition[];
  /** In the order in which they lie over each other. */
  readonly parts: readonly BytesPart[];
  readonly warnings: readonly string[];
}

/** What `sfdisk --dump` says (sfdisk(8)), in the form of today and of util-linux before 2.26. */
interface Dump {
  readonly label: 'dos' | 'gpt';
  readonly labelId: string | null;
  readonly sectorSize: 512 | 4096;
  readonly partitions: readonly Partition[];
}

const LINE = /^\/dev\/\S*?(\d+)\s*:\s*start=\s*(\d+),\s*size=\s*(\d+),\s*(?:type|Id)=\s*([0-9A-Fa-f-]+)(.*)$/;
const MOST_PARTITIONS = 256;

function parseDump(text: string, file: string): Dump {
  const value = (key: string): string | null => new RegExp(`^${key}:\\s*(\\S+)`, 'm').exec(text)?.[1] ?? null;
  const sectorSize = Number(value('sector-size') ?? 512);
  if (sectorSize !== 512 && sectorSize !== 4096) {
    throw new ImageError('unsupported', `sectors of ${sectorSize} bytes are not known`, { file, field: 'sector-size' });
  }
  const label = value('label') ?? 'dos';
  if (label !== 'dos' && label !== 'gpt') {
    throw new ImageError('unsupported', `a partition table of the type "${label}" is not known`, {
      file,
      field: 'label',
    });
  }
  const partitions: Partition[] = [];
  for (const line of text.split('\n')) {
    const found = LINE.exec(line);
    if (found === null) continue;
    const [, number, start, size, type, rest = ''] = found;
    const at = Number(start) * sectorSize;
    const length = Number(size) * sectorSize;
    if (length === 0) continue;
    if (!Number.isSafeInteger(at + length) || partitions.length >= MOST_PARTITIONS) {
      throw new ImageError('corrupt', `partition ${number} is not possible`, { file });
    }
    const id = /uuid=\s*([0-9A-Fa-f-]{36})/.exec(rest)?.[1] ?? null;
    partitions.push({ number: Number(number), at, length, type: type!, active: /\bbootable\b/.test(rest), id });
  }
  return { label, labelId: value('label-id'), sectorSize, partitions };
}

/** Bytes of the disk by the text of parted in sectors: `Disk /dev/sda: 41943040s`. */
function sizeByParted(text: string | null, sectorSize: number): Bytes | null {
  const found = /^Disk \/dev\/[^:]+:\s*(\d+)s/m.exec(text ?? '');
  const size = found === null ? 0 : Number(found[1]) * sectorSize;
  return Number.isSafeInteger(size) && size > 0 ? size : null;
}

/** Partitions by the entries of a GPT (UEFI specification 2.10, 5.3.3). */
function gptPartitions({ header, entries }: Gpt, sectorSize: number, file: string): readonly Partition[] {
  const found: Partition[] = [];
  for (let i = 0; i < header.entryCount; i++) {
    const entry = entries.subarray(i * header.entrySize, (i + 1) * header.entrySize);
    if (entry.length < 128 || entry.subarray(0, 16).every(byte => byte === 0)) continue;
    const view = viewOf(entry);
    try {
      const first = safeU64(view.getUint32(36, true), view.getUint32(32, true));
      const last = safeU64(view.getUint32(44, true), view.getUint32(40, true));
      const [at, length] = [first * sectorSize, (last - first + 1) * sectorSize];
      if (length <= 0 || !Number.isSafeInteger(at + length)) throw new RangeError('it ends before it starts');
      found.push({ number: i + 1, at, length, type: '', active: false, id: null });
    } catch (cause) {
      throw new ImageError('corrupt', `partition ${i + 1} is not possible`, { file }, { cause });
    }
  }
  return found;
}

const endOf = (partitions: readonly Partition[]): Bytes =>
  partitions.reduce((end, { at, length }) => Math.max(end, at + length), 0);
const MIB: Bytes = 2 ** 20;
const HEAD_MOST: Bytes = MIB;

interface Saved {
  readonly folder: Folder;
  readonly disk: string;
  readonly dump: Dump;
  readonly parted: Bytes | null;
}

async function readGptDisk({ folder, disk, dump, parted }: Saved): Promise<DiskTable> {
  const { sectorSize } = dump;
  const name = `${disk}-gpt-1st`;
  const head = await smallFile(folder, name, HEAD_MOST);
  const gpt = head === null ? null : readGpt(head, sectorSize);
  if (head === null || gpt === null) return madeGptDisk({ folder, disk, dump, parted }, head !== null);
  const partitions = gptPartitions(gpt, sectorSize, folder.path + name);
  const size = parted ?? (gpt.header.alternateLba + 1) * sectorSize;
  const { at, bytes } = backupGpt(gpt, size / sectorSize - 1, sectorSize);
  const tail = { at, bytes, name: 'backup of the partition table' };
  return {
    size,
    sectorSize,
    partitions,
    parts: [{ at: 0, bytes: head, name: folder.path + name }, tail],
    warnings: [],
  };
}

const GUID = /^[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$/;

/** Without the first sectors of the disk a table is made from the dump; the partitions keep their types and ids. */
function madeGptDisk({ disk, dump, parted }: Saved, isDamaged: boolean): DiskTable {
  const { sectorSize, partitions, labelId } = dump;
  const odd = partitions.find(({ type }) => !GUID.test(type));
  if (odd !== undefined) throw new RangeError(`partition ${odd.number} has the type "${odd.type}"`);
  const size = parted ?? roundUp(endOf(partitions), MIB) + MIB;
  const guid = (text: string | null, i: number): Uint8Array =>
    text === null || !GUID.test(text) ? Uint8Array.from({ length: 16 }, (_, at) => at * 7 + i + 1) : guidBytes(text);
  const entries = partitions.map(({ at, length, type, id }, i) => ({ at, length, type, id: guid(id, i) }));
  const { head, tail } = makeGpt(size, sectorSize, guid(labelId, 0), entries);
  const parts = [head, tail].map(part => ({ ...part, name: 'made partition table' }));
  const moved = partitions.some(({ number }, i) => number !== i + 1) ? ', and its partitions are numbered anew' : '';
  const why = isDamaged ? 'is damaged' : 'was not saved';
  const warnings = [`the partition table of ${disk} ${why}: one is made from the dump of sfdisk${moved}`];
  return { size, sectorSize, partitions, parts, warnings };
}

async function readMbrDisk({ folder, disk, dump, parted }: Saved): Promise<DiskTable> {
  const { sectorSize, partitions } = dump;
  const name = `${disk}-mbr`;
  const size = parted ?? roundUp(endOf(partitions), MIB);
  const saved = await smallFile(folder, name, HEAD_MOST);
  const warnings = saved === null ? [`the boot sector of ${disk} was not saved: the disk does not boot by BIOS`] : [];
  const primary = partitions
    .filter(({ number }) => number <= 4)
    .map(({ at, length, type, active }) => ({ at, length, type: Number.parseInt(type, 16), active }));
  const mbr = saved?.subarray(0, sectorSize) ?? makeMbr(sectorSize, Number(dump.labelId ?? 0), primary);
  const parts = [{ at: 0, bytes: mbr, name: folder.path + name }];
  return {
    size,
    sectorSize,
    partitions,
    parts: [...parts, ...extendedParts(partitions, sectorSize, folder.path + disk)],
    warnings,
  };
}

/** The table of `disk`; null when the image has none. Throws 'corrupt' or 'unsupported'. */
export async function readTable(folder: Folder, disk: string): Promise<DiskTable | null> {
  const text = await textFile(folder, `${disk}-pt.sf`);
  if (text === null) return null;
  const file = `${folder.path}${disk}-pt.sf`;
  const dump = parseDump(text, file);
  const parted = sizeByParted(await textFile(folder, `${disk}-pt.parted`), dump.sectorSize);
  const isGpt = dump.label === 'gpt' || dump.partitions.some(({ type }) => /^ee$/i.test(type));
  const table = await (isGpt ? readGptDisk : readMbrDisk)({ folder, disk, dump, parted }).catch((cause: unknown) => {
    // Numbers that no partition table can hold.
    if (!(cause instanceof RangeError)) throw cause;
    throw new ImageError('corrupt', `no such partition table is possible: ${cause.message}`, { file }, { cause });
  });
  const beyond = table.partitions.find(({ at, length }) => at + length > table.size);
  if (beyond === undefined) return table;
  throw new ImageError('corrupt', `partition ${beyond.number} ends behind the disk's ${table.size} bytes`, { file });
}

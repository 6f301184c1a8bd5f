/**
 * Physical volumes of LVM2: label, header, and the metadata areas with the text of their volume group. Sources: libvslvm,
 * "Logical Volume Manager (LVM) format"; lvm2, "Metadata format" in doc/.
 */
import { crc32 } from 'node:zlib';
import type { Bytes } from '../../base/contracts.ts';
import { ImageError } from '../../base/errors.ts';
import { u64, type VolumeSource } from '../source.ts';
import type { Stretch } from '../stretch.ts';
import { parseText, type Section } from './text.ts';

const SECTOR = 512;
const LABEL_SECTORS = 4;
const LABEL = 'LABELONE';
const LABEL_TYPE = 'LVM2 001';
const AREA_MAGIC = ' LVM2 x[5A%r0N*>';
const AREA_HEADER = 512;
const LONGEST_TEXT = 64 * 1_048_576;
const MOST_AREAS = 16;
const IGNORED = 1;

export interface PhysicalVolume {
  /** 32 characters. */
  readonly uuid: string;
  readonly stretch: Stretch;
  /** What its metadata areas say; empty where there are none. */
  readonly groups: readonly GroupText[];
  readonly warnings: readonly string[];
}

export interface GroupText {
  readonly name: string;
  readonly id: string;
  /** Counts the changes. */
  readonly sequence: number;
  readonly section: Section;
}

/** CRC-32 without its inversions, beginning with a number of LVM's own. */
const checksum = (data: Uint8Array): number => ~crc32(data, ~0xf597a6cf >>> 0) >>> 0;

interface Area {
  readonly at: Bytes;
  readonly size: Bytes;
}

/** Pairs of offset and size up to an empty one. */
function areasAt(header: Buffer, from: number): { readonly areas: readonly Area[]; readonly end: number } {
  const areas: Area[] = [];
  for (let at = from; at + 16 <= header.length && areas.length < MOST_AREAS; at += 16) {
    const area = { at: u64(header, at), size: u64(header, at + 8) };
    if (area.at === 0) return { areas, end: at + 16 };
    areas.push(area);
  }
  return { areas, end: header.length };
}

/** The text is kept in a ring behind the area's header. */
async function textIn(source: VolumeSource, { at, size }: Area): Promise<GroupText | null> {
  const header = await source.bytes(at, AREA_HEADER);
  const sound = header.toString('latin1', 4, 20) === AREA_MAGIC && header.readUInt32LE(20) === 1;
  source.check(sound && checksum(header.subarray(4)) === header.readUInt32LE(0), 'a metadata area is damaged', at);
  const [from, length] = [u64(header, 40), u64(header, 48)];
  if (from === 0 || (header.readUInt32LE(60) & IGNORED) !== 0) return null;
  const fits = from >= AREA_HEADER && from < size && length > 0 && length <= Math.min(size, LONGEST_TEXT);
  source.check(fits, 'the metadata lie outside their area', at + 40);
  const first = Math.min(length, size - from);
  const parts = [await source.bytes(at + from, first)];
  if (first < length) parts.push(await source.bytes(at + AREA_HEADER, length - first));
  const text = Buffer.concat(parts);
  source.check(checksum(text) === header.readUInt32LE(56), 'the checksum of the metadata does not match', at + from);
  const end = text.indexOf(0);
  const root = parseText(source.name, text.toString('utf8', 0, end < 0 ? text.length : end));
  const [name] = root.sections.keys();
  const section = root.section(source.need(name, 'the metadata name no volume group', at + from));
  return { name: name!, id: section.text('id'), sequence: section.number('seqno'), section };
}

/** null: no physical volume. */
export async function physicalVolume(stretch: Stretch, source: VolumeSource): Promise<PhysicalVolume | null> {
  if (source.size < LABEL_SECTORS * SECTOR) return null;
  const head = await source.bytes(0, LABEL_SECTORS * SECTOR);
  for (let sector = 0; sector < LABEL_SECTORS; sector++) {
    const label = head.subarray(sector * SECTOR, (sector + 1) * SECTOR);
    if (label.toString('latin1', 0, 8) !== LABEL || u64(label, 8) !== sector) continue;
    const at = sector * SECTOR;
    source.check(
      checksum(label.subarray(20)) === label.readUInt32LE(16),
      'the checksum of an LVM label does not match',
      at,
    );
    if (label.toString('latin1', 24, 32) !== LABEL_TYPE)
      throw source.unsupported('an LVM label of unknown type', at + 24);
    const headerAt = label.readUInt32LE(20);
    source.check(headerAt + 72 <= SECTOR, 'an LVM label is damaged', at + 20);
    const data = areasAt(label, headerAt + 40);
    const { areas } = areasAt(label, data.end);
    const groups: GroupText[] = [];
    const warnings: string[] = [];
    for (const area of areas) {
      try {
        const group = await textIn(source, area);
        if (group !== null) groups.push(group);
      } catch (error) {
        // Other copies are on the same volume and on others of the group.
        if (!(error instanceof ImageError)) throw error;
        warnings.push(error.message);
      }
    }
    return { uuid: label.toString('latin1', headerAt, headerAt + 32), stretch, groups, warnings };
  }
  return null;
}

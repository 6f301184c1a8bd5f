/** Descriptors as this project writes them. */
import { createHash } from 'node:crypto';
import type { Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { cidText } from './descriptor.ts';
import { SECTOR } from './structs.ts';

/**
 * Length of every descriptor: 20 sectors, the room that writers leave for an embedded one. QEMU reads as much of a
 * descriptor file too, changes the CID and writes all of it back, so that a file of this length never has to grow.
 */
export const DESCRIPTOR_SIZE: Bytes = 20 * SECTOR;

const HEADS = 16;
const SECTORS_PER_TRACK = 63;
const MOST_CYLINDERS = 16_383;
const RESERVED_CIDS = [0, 0xffff_fffe, 0xffff_ffff];

export interface Described {
  readonly createType: 'monolithicSparse' | 'monolithicFlat';
  /** `SPARSE "disk0.vmdk"` */
  readonly extent: string;
  readonly size: Bytes;
  /** The same text gives the same CID. */
  readonly seed: string;
}

export function cidFor(seed: string): number {
  const cid = createHash('sha256').update(`vmdk cid\n${seed}`).digest().readUInt32BE(0);
  return RESERVED_CIDS.includes(cid) ? 1 : cid;
}

const UNQUOTABLE = /["\\/]|\p{Cc}/gu;

/** A file name that an extent line can hold; 'unsupported' for others. */
export function quotable(name: string): string {
  if (name.search(UNQUOTABLE) < 0) return name;
  throw new ImageError('unsupported', `${JSON.stringify(name)} cannot be the name of a VMDK extent`);
}

/** For a file that holds its own descriptor: nobody opens it by the name in there. */
export const harmless = (name: string): string => name.replace(UNQUOTABLE, '_').slice(0, 255);

/**
 * `padding` fills it up: NULs where the text is embedded, line ends in a file of its own. The extent line is never the
 * last one: QEMU 7.2 counts such an extent twice.
 */
export function descriptorBytes(described: Described, padding: '\0' | '\n'): Uint8Array<ArrayBuffer> {
  const { createType, extent, size, seed } = described;
  const sectors = size / SECTOR;
  const cylinders = Math.max(1, Math.min(MOST_CYLINDERS, Math.floor(sectors / (HEADS * SECTORS_PER_TRACK))));
  const text = [
    '# Disk DescriptorFile',
    'version=1',
    ...(/^[\x20-\x7e]*$/.test(extent) ? [] : ['encoding="UTF-8"']),
    `CID=${cidText(cidFor(seed))}`,
    'parentCID=ffffffff',
    `createType="${createType}"`,
    '',
    '# Extent description',
    `RW ${sectors} ${extent}`,
    '',
    '# The Disk Data Base',
    '#DDB',
    '',
    'ddb.virtualHWVersion = "4"',
    `ddb.geometry.cylinders = "${cylinders}"`,
    `ddb.geometry.heads = "${HEADS}"`,
    `ddb.geometry.sectors = "${SECTORS_PER_TRACK}"`,
    `ddb.adapterType = "${createType === 'monolithicFlat' ? 'lsilogic' : 'ide'}"`,
    '',
  ].join('\n');
  const bytes = new Uint8Array(DESCRIPTOR_SIZE).fill(padding.charCodeAt(0));
  const written = new TextEncoder().encode(text);
  if (written.length > DESCRIPTOR_SIZE)
    throw new ImageError('unsupported', 'the name is too long for a VMDK descriptor');
  bytes.set(written);
  return bytes;
}

/** The text that describes a disk: VMware, "Virtual Disk Format 5.0", section "The Descriptor File". */
import type { Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { SECTOR } from './structs.ts';

/** No descriptor is longer: one of 2 GiB parts for 64 TiB of disk has about 1 MiB. */
export const LONGEST_DESCRIPTOR: Bytes = 4_194_304;
const MOST_EXTENTS = 65_536;

export const EXTENT_TYPES = ['flat', 'vmfs', 'sparse', 'vmfssparse', 'sesparse', 'zero'] as const;
export type ExtentType = (typeof EXTENT_TYPES)[number];

export interface ExtentLine {
  readonly type: ExtentType;
  /** Its share of the disk. */
  readonly size: Bytes;
  /** As written; '' for ZERO. */
  readonly file: string;
  /** Where the data starts in the file; flat extents only. */
  readonly fileAt: Bytes;
}

export interface Descriptor {
  readonly cid: number;
  /** null: no disk lies below. */
  readonly parentCid: number | null;
  /** In lower case, and with `2gb` for the spelling `twogb`. */
  readonly createType: string;
  readonly parentHint: string | null;
  readonly extents: readonly ExtentLine[];
  readonly size: Bytes;
}

/** Whole devices, or parts of them, are not in the backup. */
const DEVICE_TYPES = [
  'fulldevice',
  'partitioneddevice',
  'vmfsraw',
  'vmfsrawdevicemap',
  'vmfsrdm',
  'vmfspassthroughrawdevicemap',
  'vmfsrdmp',
];
const CREATE_TYPES = [
  'monolithicsparse',
  'monolithicflat',
  '2gbmaxextentsparse',
  '2gbmaxextentflat',
  'streamoptimized',
  'vmfs',
  'vmfsthin',
  'vmfspreallocated',
  'vmfseagerzeroedthick',
  'vmfssparse',
  'sesparse',
  'custom',
];
const NO_PARENT = 0xffff_ffff;

/** The first line says so; software that writes the line differently still writes the words. */
export const looksLikeDescriptor = (head: Uint8Array): boolean =>
  /^(?:\xef\xbb\xbf)?\s*#\s*Disk\s+Descriptor\s*File/i.test(Buffer.from(head.subarray(0, 256)).toString('latin1'));

/** Up to the first NUL, in the encoding that the text itself names. */
function decode(raw: Uint8Array, file: string): string {
  const end = raw.indexOf(0);
  const used = end < 0 ? raw : raw.subarray(0, end);
  const named = /^[ \t]*encoding[ \t]*=([^\r\n]*)$/im.exec(Buffer.from(used).toString('latin1'));
  const label = named?.[1]?.replaceAll('"', '').trim() || 'UTF-8';
  try {
    return new TextDecoder(label).decode(used);
  } catch (cause) {
    const message = `the descriptor's encoding ${JSON.stringify(label)} is not known`;
    throw new ImageError('unsupported', message, { file, field: 'encoding' }, { cause });
  }
}

function extentLine(line: string, file: string): ExtentLine {
  const where = { file, field: 'extent' };
  const bad = (why: string): ImageError =>
    new ImageError('corrupt', `the extent line ${JSON.stringify(line.slice(0, 120))} ${why}`, where);
  const found = /^(RW|RDONLY|NOACCESS)\s+(\d+)\s+(\S+)(?:\s+"([^"]*)"(?:\s+(\d+))?)?\s*$/i.exec(line);
  const words = line.split(/\s+/);
  const type = (found?.[3] ?? words[2] ?? '').toLowerCase();
  if (type === 'vmfsrdm' || type === 'vmfsraw') {
    throw new ImageError('unsupported', `an extent of type ${type.toUpperCase()} is a device, not a file`, where);
  }
  if (found === null) throw bad('cannot be read');
  const known = EXTENT_TYPES.find(each => each === type);
  if (known === undefined) throw new ImageError('unsupported', `extent type ${found[3]} is not known`, where);
  const sectors = Number(found[2]);
  const start = Number(found[5] ?? 0);
  if (!Number.isSafeInteger(sectors * SECTOR) || !Number.isSafeInteger((sectors + start) * SECTOR))
    throw bad('is too large');
  if (known !== 'zero') {
    if (found[4] === undefined || found[4] === '') throw bad('names no file');
    if (found[1]!.toUpperCase() === 'NOACCESS') {
      throw new ImageError('unsupported', `extent ${JSON.stringify(found[4])} is marked as not accessible`, where);
    }
  }
  return { type: known, size: sectors * SECTOR, file: found[4] ?? '', fileAt: start * SECTOR };
}

const hex = (text: string, key: string, file: string): number => {
  if (!/^(?:0x)?[0-9a-f]{1,8}$/i.test(text)) {
    throw new ImageError('corrupt', `${key} ${JSON.stringify(text.slice(0, 40))} is no number of 32 bits`, {
      file,
      field: key,
    });
  }
  return Number.parseInt(text, 16);
};

function checkedType(written: string | undefined, file: string): string {
  const where = { file, field: 'createType' };
  if (written === undefined) throw new ImageError('corrupt', 'the descriptor has no createType', where);
  const type = written.toLowerCase().replace(/^twogb/, '2gb');
  if (DEVICE_TYPES.includes(type)) {
    throw new ImageError('unsupported', `a disk of type ${written} is a device, not a file`, where);
  }
  if (!CREATE_TYPES.includes(type)) {
    throw new ImageError('unsupported', `disk type ${JSON.stringify(written.slice(0, 60))} is not known`, where);
  }
  return type;
}

/** The value of a key, with or without quotation marks. */
const unquoted = (written: string): string => {
  const value = written.trim();
  return value.length > 1 && value.startsWith('"') && value.endsWith('"') ? value.slice(1, -1).trim() : value;
};

interface Lines {
  /** The first one of a key counts. */
  readonly keys: ReadonlyMap<string, string>;
  readonly extents: readonly ExtentLine[];
}

function linesOf(text: string, file: string): Lines {
  const keys = new Map<string, string>();
  const extents: ExtentLine[] = [];
  for (const raw of text.split(/\r\n|\n|\r/)) {
    const line = raw.trim();
    if (line === '' || line.startsWith('#')) continue;
    if (/^(RW|RDONLY|NOACCESS)\s/i.test(line)) {
      if (extents.length === MOST_EXTENTS)
        throw new ImageError('unsupported', `more than ${MOST_EXTENTS} extents`, { file });
      extents.push(extentLine(line, file));
      continue;
    }
    const pair = /^([A-Za-z0-9._-]+)\s*=(.*)$/.exec(line);
    const key = pair?.[1]?.toLowerCase();
    if (pair !== null && key !== undefined && !keys.has(key)) keys.set(key, unquoted(pair[2]!));
  }
  return { keys, extents };
}

/**
 * 'corrupt' where something is missing or makes no sense; 'unsupported' for devices, encrypted disks, unknown versions
 * and types. `raw` may be padded with NULs.
 */
export function parseDescriptor(raw: Uint8Array, file: string): Descriptor {
  const { keys, extents } = linesOf(decode(raw, file), file);
  const version = keys.get('version');
  if (version === undefined || !['1', '2', '3', '4'].includes(version)) {
    const message =
      version === undefined
        ? 'the descriptor has no version'
        : `descriptor version ${version.slice(0, 20)} is not known`;
    throw new ImageError(version === undefined ? 'corrupt' : 'unsupported', message, { file, field: 'version' });
  }
  if ([...keys.keys()].some(key => key.startsWith('encryption') || key === 'encrypteddata')) {
    throw new ImageError('unsupported', 'the disk is encrypted by VMware', { file, field: 'encryptionKeys' });
  }
  const createType = checkedType(keys.get('createtype'), file);
  const cid = keys.get('cid');
  if (cid === undefined) throw new ImageError('corrupt', 'the descriptor has no CID', { file, field: 'CID' });
  const own = hex(cid, 'CID', file);
  const parentCid = hex(keys.get('parentcid') ?? 'ffffffff', 'parentCID', file);
  const size = extents.reduce((sum, extent) => sum + extent.size, 0);
  if (size === 0 || !Number.isSafeInteger(size)) {
    const message = size === 0 ? 'the descriptor names no extents' : 'the extents together are too large';
    throw new ImageError('corrupt', message, { file, field: 'extent' });
  }
  return {
    cid: own,
    parentCid: parentCid === NO_PARENT ? null : parentCid,
    createType,
    parentHint: keys.get('parentfilenamehint') || null,
    extents: extents.filter(extent => extent.size > 0),
    size,
  };
}

export const cidText = (cid: number): string => cid.toString(16).padStart(8, '0');

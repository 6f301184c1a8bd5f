/** The archive's header: its devices, and the configuration files that it carries. */
import type { Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { safeU64, viewOf } from '../../src/base/struct.ts';
import {
  CLUSTER,
  CONFIG_DATA,
  CONFIG_NAMES,
  DEVICE_TABLE,
  DEVICES,
  Device,
  EXTENT_HEADER,
  HEADER,
  Header,
  md5Holds,
} from './structs.ts';

/** Longest header that is read: configurations are text of some kilobytes. */
const MOST: Bytes = 16 * 2 ** 20;
/** The machine's memory, saved with its disks: no disk. */
const MEMORY_DEVICE = 'vmstate';

export interface ArchiveDevice {
  /** Number by which extents refer to it. */
  readonly id: number;
  readonly name: string;
  readonly size: Bytes;
  readonly isDisk: boolean;
}

export interface ArchiveHeader {
  readonly uuid: Uint8Array;
  readonly md5: Uint8Array;
  readonly created: Date | null;
  /** Where the first extent starts. */
  readonly size: Bytes;
  readonly devices: readonly ArchiveDevice[];
  /** Text of a configuration file by its name, '' when the archive has none of that name. */
  config(name: string): string;
}

const refuse = (fault: 'corrupt' | 'unsupported', message: string, file: string, at: Bytes, field: string): never => {
  throw new ImageError(fault, message, { file, at, field });
};

/** A blob: its length in two bytes, the low one first, then the bytes. Empty where there is none. */
function blobAt(raw: Uint8Array, start: Bytes, size: Bytes, at: Bytes): Uint8Array {
  if (at === 0 || at + 2 > size) return raw.subarray(0, 0);
  const length = viewOf(raw).getUint16(start + at, true);
  return at + 2 + length > size ? raw.subarray(0, 0) : raw.subarray(start + at + 2, start + at + 2 + length);
}

const textOf = (blob: Uint8Array): string => new TextDecoder().decode(blob).replace(/\0.*$/s, '');

function devicesOf(raw: Uint8Array, nameOf: (at: Bytes) => string, file: string): readonly ArchiveDevice[] {
  const devices: ArchiveDevice[] = [];
  for (let id = 1; id < DEVICES; id++) {
    const at = DEVICE_TABLE + id * Device.size;
    const view = viewOf(raw);
    const nameAt = view.getUint32(at);
    if (nameAt === 0) continue;
    let size = 0;
    try {
      size = safeU64(view.getUint32(at + 8), view.getUint32(at + 12));
    } catch {
      refuse('corrupt', `device ${id} is larger than 2^53 bytes`, file, at + 8, 'size');
    }
    const name = nameOf(nameAt);
    if (!/^[\w.-]{1,128}$/.test(name)) refuse('corrupt', `the name of device ${id} makes no sense`, file, at, 'name');
    if (size > 2 ** 32 * CLUSTER) refuse('corrupt', `device ${name} cannot have ${size} bytes`, file, at + 8, 'size');
    devices.push({ id, name, size, isDisk: name !== MEMORY_DEVICE });
  }
  return devices;
}

/** How many bytes the header takes, from its first part of HEADER bytes. */
export function headerLength(raw: Uint8Array, file: string): Bytes {
  const { version, headerSize, blobAt: start, blobSize } = Header.parse(raw, 0, file);
  if (version !== 1) refuse('unsupported', `version ${version} is not known`, file, 4, 'version');
  const fits = headerSize % EXTENT_HEADER === 0 && headerSize >= HEADER && headerSize <= MOST;
  if (!fits) refuse('corrupt', `a header of ${headerSize} bytes is not possible`, file, 56, 'headerSize');
  if (start < HEADER || start + blobSize > headerSize) {
    refuse('corrupt', 'the configuration does not lie in the header', file, 48, 'blobAt');
  }
  return headerSize;
}

/** `raw`: the whole header. Throws 'corrupt' or 'unsupported', naming the field. */
export function parseHeader(raw: Uint8Array, file: string): ArchiveHeader {
  const fields = Header.parse(raw, 0, file);
  if (!md5Holds(raw, Header.offsetOf('md5'))) refuse('corrupt', 'the MD5 of the header does not hold', file, 32, 'md5');
  const blob = (at: Bytes): Uint8Array => blobAt(raw, fields.blobAt, fields.blobSize, at);
  const view = viewOf(raw);
  return {
    uuid: fields.uuid,
    md5: fields.md5,
    created: fields.created === 0 || fields.created > 253_402_300_799 ? null : new Date(fields.created * 1000),
    size: fields.headerSize,
    devices: devicesOf(raw, at => textOf(blob(at)), file),
    config(name) {
      for (let i = 0; i < 256; i++) {
        if (textOf(blob(view.getUint32(CONFIG_NAMES + i * 4))) !== name) continue;
        return new TextDecoder().decode(blob(view.getUint32(CONFIG_DATA + i * 4)));
      }
      return '';
    },
  };
}

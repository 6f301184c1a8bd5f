/** `index.json.blob`: what a snapshot consists of (proxmox-backup, pbs-datastore/src/manifest.rs). */
import { createHmac } from 'node:crypto';
import type { Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import type { BackupKey } from './keys.ts';

export const MANIFEST = 'index.json.blob';
/** A machine has some dozens of disks at most. */
const MOST_FILES = 1024;

export interface ManifestFile {
  readonly filename: string;
  readonly encrypted: boolean;
  /** Of an index: bytes of its content. Of a blob: of the file. */
  readonly size: Bytes;
  /** Of an index: SHA-256 of its table. Of a blob: of the file. Hexadecimal. */
  readonly csum: string;
}

export interface Manifest {
  readonly type: 'vm' | 'ct' | 'host';
  readonly id: string;
  readonly time: Date;
  readonly files: readonly ManifestFile[];
  /** Of the key that encrypted or signed the snapshot, where it is recorded. */
  readonly fingerprint: string | null;
  /** Whether the signature is this key's; null when the manifest is not signed. */
  signedBy(key: BackupKey): boolean | null;
}

type Json = Record<string, unknown>;
const isRecord = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** As the product writes JSON that is signed: keys in order, no spaces. */
function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (!isRecord(value)) return JSON.stringify(value);
  const fields = Object.keys(value)
    .sort()
    .map(key => `${JSON.stringify(key)}:${canonical(value[key])}`);
  return `{${fields.join(',')}}`;
}

function fileOf(value: unknown, file: string): ManifestFile {
  const refuse = (field: string): never => {
    throw new ImageError('corrupt', `the manifest lists a file whose ${field} makes no sense`, { file, field });
  };
  if (!isRecord(value)) return refuse('entry');
  const { filename, size, csum } = value;
  const mode = value['crypt-mode'] ?? 'none';
  if (typeof filename !== 'string' || !/^[A-Za-z0-9_][A-Za-z0-9._-]*$/.test(filename)) return refuse('filename');
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) return refuse('size');
  if (typeof csum !== 'string' || !/^[0-9a-f]{64}$/.test(csum)) return refuse('csum');
  if (mode !== 'none' && mode !== 'sign-only' && mode !== 'encrypt') {
    throw new ImageError('unsupported', `the crypt-mode ${JSON.stringify(mode)} of ${filename} is not known`, {
      file,
      field: 'crypt-mode',
    });
  }
  return { filename, encrypted: mode === 'encrypt', size, csum };
}

/** Throws 'corrupt' or 'unsupported', naming the field. */
export function parseManifest(text: string, file: string): Manifest {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new ImageError('corrupt', 'the manifest is not JSON', { file }, { cause });
  }
  const refuse = (field: string): never => {
    throw new ImageError('corrupt', `${field} of the manifest makes no sense`, { file, field });
  };
  if (!isRecord(value)) return refuse('content');
  const type = value['backup-type'];
  const id = value['backup-id'];
  const time = value['backup-time'];
  if (type !== 'vm' && type !== 'ct' && type !== 'host') return refuse('backup-type');
  if (typeof id !== 'string' || !/^[A-Za-z0-9_][A-Za-z0-9._-]*$/.test(id)) return refuse('backup-id');
  if (typeof time !== 'number' || !Number.isInteger(time) || Math.abs(time) > 253_402_300_799)
    return refuse('backup-time');
  if (!Array.isArray(value.files) || value.files.length > MOST_FILES) return refuse('files');
  const { signature, unprotected, ...signed } = value;
  const print = isRecord(unprotected) ? unprotected['key-fingerprint'] : null;
  return {
    type,
    id,
    time: new Date(time * 1000),
    files: value.files.map(entry => fileOf(entry, file)),
    fingerprint: typeof print === 'string' ? print : null,
    signedBy(key) {
      if (typeof signature !== 'string') return null;
      return createHmac('sha256', key.idKey).update(canonical(signed)).digest('hex') === signature;
    },
  };
}

/**
 * What Xen Orchestra calls a disk that it backed up: `xo-vm-backups/<VM>/vdis/<job>/<VDI>/<time>.vhd` (or `.alias.vhd`) is
 * described by `xo-vm-backups/<VM>/<time>.json` (xen-orchestra, @xen-orchestra/backups, `writeVmBackupMetadata`).
 */
import type { Store } from './contracts.ts';
import { ImageError } from './errors.ts';

const DISK = /^((?:.*\/)?)vdis\/[^/]+\/([^/]+)\/(\d{8}T\d{6}Z)(?:\.alias)?\.vhd$/;
/** Longer than what it writes for a machine of many disks. */
const LONGEST = 4 * 2 ** 20;

type Fields = Readonly<Record<string, unknown>>;

const fieldsOf = (value: unknown): Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Fields) : {};
const textOf = (value: unknown): string => (typeof value === 'string' ? value.trim() : '');

/** null: missing, encrypted, or not what it should be. It only names things. */
async function description(store: Store, name: string): Promise<Fields | null> {
  try {
    await using source = await store.open(name);
    if (source.size > LONGEST) return null;
    const raw = new Uint8Array(source.size);
    await source.read(raw, 0);
    return fieldsOf(JSON.parse(new TextDecoder().decode(raw)));
  } catch (error) {
    if (error instanceof ImageError || error instanceof SyntaxError) return null;
    throw error;
  }
}

/** The device that a machine has the disk as, else the disk's own name. */
function diskName(about: Fields, own: string, ref: string): string {
  const devices = Object.values(fieldsOf(about.vbds)).map(fieldsOf);
  const device = textOf(devices.find(({ VDI }) => VDI === ref)?.device);
  return device || textOf(fieldsOf(fieldsOf(about.vdis)[ref]).name_label) || own;
}

/** `20261120T100000Z.vhd`, in UTC: the time of the backup. */
export function backupTime(file: string): Date | null {
  const digits = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z\./.exec(file);
  if (digits === null) return null;
  const [year, month, day, hour, minute, second] = digits.slice(1).map(Number);
  return new Date(Date.UTC(year!, month! - 1, day, hour, minute, second));
}

export interface Backup {
  /** The machine's name, with the disk's where it has several; null: nothing describes it. */
  readonly set: string | null;
  readonly time: Date | null;
}

/** null: `name` is no disk of a remote. */
export async function backupOf(store: Store, name: string): Promise<Backup | null> {
  const [, folder, own, stamp] = DISK.exec(name) ?? [];
  if (folder === undefined || own === undefined) return null;
  const time = backupTime(`${stamp}.`);
  const about = await description(store, `${folder}${stamp}.json`);
  const machine = textOf(fieldsOf(about?.vm).name_label);
  if (about === null || machine === '') return { set: null, time };
  const vhds = Object.entries(fieldsOf(about.vhds));
  const ref = vhds.find(([, path]) => textOf(path).split('/').includes(own))?.[0];
  const set = vhds.length > 1 && ref !== undefined ? `${machine}-${diskName(about, own, ref)}` : machine;
  return { set, time };
}

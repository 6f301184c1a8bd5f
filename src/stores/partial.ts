/** Names of files that are being unpacked: what of, by whom, how much of it is certain, and where decoding can go on. */
import type { Bytes } from '../base/contracts.ts';
import { pidNamespace, startOf } from '../base/files.ts';

const PART = '.part';

/** How far a run has come. */
export interface Kept {
  /** So much from the front is on the disk, whatever happens. */
  readonly plain: Bytes;
  /** Decoding can begin at this place of the compressed file, and gives what belongs at that one. */
  readonly restartPacked: Bytes;
  readonly restartPlain: Bytes;
}

export const NOTHING: Kept = { plain: 0, restartPacked: 0, restartPlain: 0 };

const digits = (text: string): string => text.replaceAll(/\D/g, '');
const SHAPE = /^(.+)-[0-9a-f]{8}\.(\d+)-(\d+)-(\d+)\.(\d{1,16})-(\d{1,16})-(\d{1,16})\.part$/;

export const isPartial = (name: string): boolean => name.endsWith(PART);

/** `<key>-<unique>.<namespace>-<pid>-<start>.<plain>-<restart, packed>-<restart, plain>.part` of this program; `unique`: eight hexadecimal digits. */
export function ownName(key: string, { plain, restartPacked, restartPlain }: Kept, unique: string): string {
  const owner = `${digits(pidNamespace())}-${process.pid}-${startOf(process.pid) ?? 0}`;
  return `${key}-${unique}.${owner}.${plain}-${restartPacked}-${restartPlain}${PART}`;
}

/** Whether nobody writes it any more; one of another pid namespace may still be written. */
export function isAbandoned(name: string): boolean {
  const [, namespace, pid, start] = /\.(\d+)-(\d+)-(\d+)(?:\.[\d-]+)?\.part$/.exec(name) ?? [];
  return namespace === digits(pidNamespace()) && startOf(Number(pid)) !== start;
}

/** null: the file is of something else, or says nothing that can be gone on with. */
export function keptOf(name: string, key: string): Kept | null {
  const [, its, , , , plain, restartPacked, restartPlain] = SHAPE.exec(name) ?? [];
  if (its !== key) return null;
  const kept = { plain: Number(plain), restartPacked: Number(restartPacked), restartPlain: Number(restartPlain) };
  const sound = Object.values(kept).every(Number.isSafeInteger) && kept.restartPlain <= kept.plain;
  return sound && kept.plain > 0 ? kept : null;
}

/** Whether there is something in the file that a run of some kind can go on with. */
export const isResumable = (name: string): boolean => Number(SHAPE.exec(name)?.[5] ?? 0) > 0;

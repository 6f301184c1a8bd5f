/**
 * Adding, removing and changing the secrets of a set (section 4). Only the key areas are written, in every file of the set;
 * no stored block is touched, and the master key stays. A run that was stopped is completed by the same call.
 */
import { randomBytes } from 'node:crypto';
import type { ByteFile, WritableStore } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import {
  type Derivation,
  type KeySlot,
  keyArea,
  MAX_SLOTS,
  openSlot,
  sequenceOf,
  slotsFor,
  slotsIn,
  soundKeyArea,
  unlock,
  usualDerivations,
} from './keys.ts';
import { type LuksPart, luksKeysOf, luksPartOf, withLuksKey } from './luks-keys.ts';
import { claim } from './owner.ts';
import { type Shelf, shelfOf } from './shelf.ts';
import { hex, KEY_AREA_SIZE, KEY_AREAS, sameBytes } from './structs.ts';

export type KeyEdit =
  | { readonly kind: 'add'; readonly secret: Uint8Array; readonly label: string }
  /** `id`: of a slot, or the beginning of it. */
  | { readonly kind: 'remove'; readonly id: string }
  /** The new secret instead of the present one. */
  | { readonly kind: 'change'; readonly secret: Uint8Array; readonly label: string };

interface Held {
  readonly name: string;
  /** Both copies as they are. */
  readonly copies: readonly Uint8Array[];
  readonly area: Uint8Array | null;
}

/** The files of one set: those that share a master key. A backup set has several where it has several fulls. */
interface Group {
  readonly setId: Uint8Array;
  readonly files: readonly Held[];
  /** The sound area with the highest sequence. */
  readonly newest: Uint8Array;
}

async function readHeld(shelf: Shelf, name: string): Promise<{ readonly setId: Uint8Array; readonly held: Held }> {
  const { head, file } = await shelf.identify(name);
  if (head.cipher === 'none')
    throw new ImageError('usage', 'is not encrypted: there are no keys to it', { file: name });
  const copies: Uint8Array[] = [];
  for (const at of KEY_AREAS) {
    const copy = new Uint8Array(KEY_AREA_SIZE);
    await file.read(copy, at);
    copies.push(copy);
  }
  return { setId: head.setId, held: { name, copies, area: soundKeyArea(copies) } };
}

async function groupsOf(shelf: Shelf, names: readonly string[]): Promise<readonly Group[]> {
  const groups = new Map<string, { readonly setId: Uint8Array; readonly files: Held[] }>();
  for (const name of names) {
    const { setId, held } = await readHeld(shelf, name);
    const group = groups.get(hex(setId));
    if (group === undefined) groups.set(hex(setId), { setId, files: [held] });
    else group.files.push(held);
  }
  return [...groups.values()].map(({ setId, files }) => {
    const areas = files.flatMap(file => (file.area === null ? [] : [file.area]));
    const newest = areas.sort((a, b) => sequenceOf(b) - sequenceOf(a))[0];
    if (newest !== undefined) return { setId, files, newest };
    throw new ImageError('corrupt', 'all copies of the key slots fail their checksum', { file: files[0]!.name });
  });
}

export interface KeyListing {
  readonly files: readonly string[];
  readonly slots: readonly Omit<KeySlot, 'raw'>[];
  /** Files whose slots are others: a change of keys was stopped. */
  readonly differing: readonly string[];
}

/** The slots of each group of files. No key is needed. */
export async function listKeys(store: WritableStore, names: readonly string[]): Promise<readonly KeyListing[]> {
  const shelf = shelfOf(store);
  shelf.retain();
  try {
    return (await groupsOf(shelf, names)).map(({ files, newest }) => ({
      files: files.map(file => file.name),
      slots: slotsIn(newest, files[0]!.name, KEY_AREAS[0]).map(({ raw: _, ...slot }) => slot),
      differing: files.filter(file => !upToDate(file, newest)).map(file => file.name),
    }));
  } finally {
    await shelf.release();
  }
}

const upToDate = ({ copies }: Held, area: Uint8Array): boolean => copies.every(copy => sameBytes(copy, area));

/** The master key by any of the secrets, from whichever file's slots: a stopped change left some of them older. */
async function masterOf({ setId, files, newest }: Group, secrets: readonly Uint8Array[]): Promise<Buffer> {
  const areas = [newest, ...files.flatMap(({ area }) => (area === null || sameBytes(area, newest) ? [] : [area]))];
  for (const area of areas) {
    const unlocked = await unlock(area, secrets, setId, files[0]!.name, KEY_AREAS[0]);
    if (unlocked !== null) return unlocked.master.export();
  }
  throw new ImageError('wrong-key', 'no given key opens the set', { file: files[0]!.name, at: KEY_AREAS[0] });
}

async function opens(slot: KeySlot, secrets: readonly Uint8Array[], setId: Uint8Array, file: string): Promise<boolean> {
  for (const secret of secrets) {
    if ((await openSlot(slot.raw, secret, setId, file, KEY_AREAS[0])) !== null) return true;
  }
  return false;
}

interface Edited {
  readonly slots: readonly Uint8Array[];
  readonly luks: LuksPart | null;
}

/** Of each secret that keeps a slot the LUKS key stays as well. */
const remaining = (stay: readonly KeySlot[], part: LuksPart | null): Edited => ({
  slots: stay.map(slot => slot.raw),
  luks: luksKeysOf(part, new Set(stay.map(slot => slot.id))),
});

/** The slots as they are to be. `present`: secrets of which one opens the set. */
async function edited(
  group: Group,
  edit: KeyEdit,
  present: readonly Uint8Array[],
  { derivations = usualDerivations(), luksIterations }: KeyEditSpec,
  id: Uint8Array,
): Promise<Edited> {
  const { setId, newest, files } = group;
  const file = files[0]!.name;
  const there = slotsIn(newest, file, KEY_AREAS[0]);
  const part = luksPartOf(newest, file, KEY_AREAS[0]);
  const secrets = edit.kind === 'remove' ? present : [...present, edit.secret];
  const master = await masterOf(group, secrets);
  try {
    if (edit.kind === 'remove') return remaining(without(group, there, edit.id), part);
    const stay: KeySlot[] = [];
    let known = false;
    for (const slot of there) {
      const its = await opens(slot, [edit.secret], setId, file);
      known ||= its;
      if (its || edit.kind === 'add' || !(await opens(slot, present, setId, file))) stay.push(slot);
    }
    const added = known ? [] : await slotsFor(derivations, edit.secret, master, setId, id, edit.label);
    if (stay.length + added.length > MAX_SLOTS) {
      throw new ImageError('usage', `a set has at most ${MAX_SLOTS} key slots`, { file }, { hint: 'remove one first' });
    }
    const { slots, luks } = remaining(stay, part);
    if (luks === null || known) return { slots: [...slots, ...added], luks };
    const key = { id, secret: edit.secret, ...(luksIterations === undefined ? {} : { iterations: luksIterations }) };
    return { slots: [...slots, ...added], luks: await withLuksKey(luks, master, setId, key) };
  } finally {
    master.fill(0);
  }
}

function without({ files }: Group, there: readonly KeySlot[], id: string): readonly KeySlot[] {
  const file = files[0]!.name;
  const stay = there.filter(slot => !slot.id.startsWith(id));
  const gone = there.filter(slot => slot.id.startsWith(id));
  if (new Set(gone.map(slot => slot.id)).size > 1) {
    throw new ImageError('usage', `${JSON.stringify(id)} is the beginning of several keys`, { file });
  }
  if (stay.length > 0) return stay;
  throw new ImageError('usage', 'the last key is never removed: nothing could be read again', { file });
}

/** A full has slots of its own, so a key need not be in every group. Where a removal was stopped it is in older slots only. */
function refuseUnknown(groups: readonly Group[], id: string): void {
  const areas = groups.flatMap(({ files }) => files).flatMap(({ area }) => (area === null ? [] : [area]));
  const known = areas.some(area => slotsIn(area, '', KEY_AREAS[0]).some(slot => slot.id.startsWith(id)));
  if (id === '' || !known) throw new ImageError('not-found', `there is no key ${JSON.stringify(id)}`, {});
}

/** Replaces both copies, the one that counts last: at each moment one of the two is sound. */
async function writeArea(file: ByteFile, held: Held, area: Uint8Array): Promise<void> {
  const second = held.area === null ? -1 : held.copies.indexOf(held.area);
  for (const i of second === 1 ? [0, 1] : [1, 0]) {
    await file.write(area, KEY_AREAS[i]!);
    await file.sync();
  }
}

export interface KeyEditSpec {
  /** All files of the set. */
  readonly files: readonly string[];
  readonly edit: KeyEdit;
  /** Secrets of which one opens the set now. */
  readonly present: readonly Uint8Array[];
  openForWriting(name: string): Promise<ByteFile>;
  readonly derivations?: readonly Derivation[];
  /** PBKDF2 iterations of a LUKS key; absent: as many as take a second. */
  readonly luksIterations?: number;
}

/** Returns how many files were rewritten. Faults: 'wrong-key', 'usage', 'not-found', 'busy', 'corrupt'. */
export async function editKeys(store: WritableStore, spec: KeyEditSpec): Promise<number> {
  const { files, edit, present } = spec;
  const first = files[0];
  if (first === undefined) throw new ImageError('usage', 'the set has no files', {});
  const work = await claim(store, `${first.slice(0, first.lastIndexOf('/') + 1)}keys`, 'alone');
  const shelf = shelfOf(store);
  shelf.retain();
  try {
    // All groups first: a key that does not open one of them changes none.
    const groups = await groupsOf(shelf, files);
    if (edit.kind === 'remove') refuseUnknown(groups, edit.id);
    const id = randomBytes(16);
    const due: { readonly group: Group; readonly area: Uint8Array }[] = [];
    for (const group of groups) {
      const { slots, luks } = await edited(group, edit, present, spec, id);
      const old = slotsIn(group.newest, group.files[0]!.name, KEY_AREAS[0]);
      const same = slots.length === old.length && slots.every((slot, i) => sameBytes(slot, old[i]!.raw));
      due.push({ group, area: same ? group.newest : keyArea(slots, sequenceOf(group.newest) + 1, luks) });
    }
    let written = 0;
    for (const { group, area } of due) {
      for (const held of group.files) {
        if (upToDate(held, area)) continue;
        await using file = await spec.openForWriting(held.name);
        await writeArea(file, held, area);
        written++;
      }
    }
    return written;
  } finally {
    await shelf.release();
    await work.end(true);
  }
}

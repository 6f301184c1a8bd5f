/** Which of the unfinished layers in a folder a new one goes on in. */
import type { KeyObject } from 'node:crypto';
import type { LayerSpec, WritableStore } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { soundKeyArea, unlock } from './keys.ts';
import { type Claim, removeQuietly } from './owner.ts';
import { type Cipher, KEY_AREAS, sameBytes } from './structs.ts';
import { readUnfinished, setIsKnown, type Unfinished } from './unfinished.ts';

/** What an earlier run left of this layer, and the keys of its set where they come from there. */
export interface Found extends Unfinished {
  readonly keyArea: Uint8Array | null;
  readonly master: KeyObject | null;
}

/** The set that a layer belongs to. */
interface SetSpec {
  /** Its id when there is a parent; null: the set is new. */
  readonly parentId: Uint8Array | null;
  readonly cipher: Cipher;
}

/** The unfinished layer when this one can go on in it: of the same set, or of one that nothing else is of; null otherwise. */
async function usable(left: string, store: WritableStore, spec: LayerSpec, set: SetSpec): Promise<Found | null> {
  const unfinished = await readUnfinished(store, left);
  if (unfinished === null) return null;
  const { head, keyAreas } = unfinished;
  if (2 ** head.blockLog2 !== spec.blockSize || head.cipher !== set.cipher) return null;
  if ((set.cipher === 'none') !== (spec.secret === null)) return null;
  if (set.parentId !== null) {
    return sameBytes(head.setId, set.parentId) ? { ...unfinished, keyArea: null, master: null } : null;
  }
  if (await setIsKnown(store, left.slice(0, left.lastIndexOf('/') + 1), head.setId)) return null;
  if (spec.secret === null) return { ...unfinished, keyArea: null, master: null };
  const keyArea = soundKeyArea(keyAreas);
  const unlocked = keyArea === null ? null : await unlock(keyArea, [spec.secret], head.setId, left, KEY_AREAS[0]);
  return unlocked === null ? null : { ...unfinished, keyArea, master: unlocked.master };
}

/** Goes on in the first unfinished layer that serves; the others are removed. */
export async function takeUp(work: Claim, store: WritableStore, spec: LayerSpec, set: SetSpec): Promise<Found | null> {
  let taken: Found | null = null;
  for (const left of work.left) {
    try {
      const found: Found | null = taken === null ? await usable(left, store, spec, set) : null;
      if (found !== null && (await work.takeOver(left))) taken = found;
      else await removeQuietly(store, left);
    } catch (error) {
      if (!(error instanceof ImageError) || error.fault === 'io' || error.fault === 'no-space') throw error;
      await removeQuietly(store, left);
    }
  }
  return taken;
}

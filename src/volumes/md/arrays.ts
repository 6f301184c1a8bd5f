/** md arrays, put together from their members. */
import { ImageError } from '../../base/errors.ts';
import { composedStretch, type Mapping } from '../composed.ts';
import { type Leg, raidMapping } from '../raid.ts';
import type { Stretch } from '../stretch.ts';
import type { Member } from './superblock.ts';

export interface Arrays {
  readonly stretches: readonly Stretch[];
  readonly notes: readonly string[];
}

/** By the place of each: the most recent members whose data are whole. Those that missed a change do not count. */
function legsOf(members: readonly Member[], first: Member): readonly (Leg | null)[] {
  const legs = Array.from({ length: first.members }, (): Leg | null => null);
  for (const { place, inSync, leg, events } of members) {
    // One count behind: the system went down between two superblocks.
    if (place === null || !inSync || events + 1n < first.events) continue;
    legs[place] ??= leg;
  }
  return legs;
}

function arrayOf(members: readonly Member[], notes: string[]): Stretch | null {
  const sorted = members.toSorted((a, b) => (a.events === b.events ? 0 : a.events < b.events ? 1 : -1));
  const first = sorted[0]!;
  const its = `md ${first.name}`;
  const legs = legsOf(sorted, first);
  const missing = legs.filter(leg => leg === null).length;
  if (missing > 0) notes.push(`${its}: ${missing} of ${legs.length} members are missing or out of date`);
  if (first.dirty) notes.push(`${its}: the array was in use or being put in order when the backup was made`);
  try {
    const { level, layout, chunk, legSize } = first;
    const mapping: Mapping = raidMapping({ its, level, layout, chunk, legs, legSize });
    const { sectorSize } = first.leg.stretch.disk;
    return composedStretch({ its, folder: `md-${first.name}`, sectorSize, mapping });
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    notes.push(`${its} cannot be read: ${error.message}`);
    return null;
  }
}

/** Every array that these are members of. */
export function arraysOf(members: readonly Member[]): Arrays {
  const byArray = new Map<string, Member[]>();
  for (const member of members) {
    const its = byArray.get(member.uuid);
    if (its === undefined) byArray.set(member.uuid, [member]);
    else its.push(member);
  }
  const notes: string[] = [];
  const stretches = [...byArray.values()].map(its => arrayOf(its, notes)).filter(stretch => stretch !== null);
  return { stretches, notes };
}

/** Consolidation: which points of a set become one, and what stands in the way. The format does the copying. */
import type { Bytes, WritableStore } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { timeName } from '../chain/names.ts';
import type { BackupSet, RestorePoint } from '../chain/point.ts';
import type { Watch } from './sparse.ts';

/** What a format can do with the files of a chain. Nothing of it needs a key. */
export interface ChainFormat {
  /** Files in the order of the chain, base first; the last one then holds all that it needs of the others, which are gone. */
  consolidate(
    store: WritableStore,
    spec: {
      readonly files: readonly string[];
      readonly signal: AbortSignal;
      progress(done: number, total: number): void;
    },
  ): Promise<Consolidated>;
  /** Removes the file of a point on which nothing builds. */
  drop(store: WritableStore, file: string): Promise<void>;
  /** Times of the points whose layers a file holds, in the order of the chain. */
  heldTimes(store: WritableStore, file: string): Promise<readonly Date[]>;
}

export interface Consolidated {
  /** False when there was nothing left to copy. */
  readonly built: boolean;
  readonly records: number;
  /** Size of the file that stays. */
  readonly bytes: Bytes;
  readonly removed: readonly string[];
}

/** A clone, which needs the point that it was made of. */
export interface ClonePin {
  readonly name: string;
  readonly set: string;
  readonly point: string;
}

export const childrenOf = (set: BackupSet, point: RestorePoint): readonly RestorePoint[] =>
  set.points.filter(other => other.parent === point.name);

/** `NAME`, `latest`, `~2` (two before the latest), each also as `SET@…`. null: there is no such point. */
export function pointNamed(set: BackupSet, spec: string): RestorePoint | null {
  const name = spec.startsWith(`${set.name}@`) ? spec.slice(set.name.length + 1) : spec;
  const back = name === 'latest' ? 0 : /^~\d{1,9}$/.test(name) ? Number(name.slice(1)) : null;
  const found = back === null ? set.points.find(point => point.name === name) : set.points.at(-1 - back);
  return found ?? null;
}

/** From `from` to `to`, base first. 'usage' when `to` does not build on `from`. */
function lineOf(set: BackupSet, from: RestorePoint, to: RestorePoint): readonly RestorePoint[] {
  const line = [to];
  for (let point = to; point !== from; ) {
    const parent = set.points.find(other => other.name === point.parent);
    if (parent === undefined || line.includes(parent)) {
      throw new ImageError('usage', `${set.name}@${to.name} does not build on ${from.name}`, { field: '--from' });
    }
    line.push(parent);
    point = parent;
  }
  return line.reverse();
}

/** The points of a range, base first. All but the last one will be gone; refused by name when something needs one of them. */
export function planRange(
  set: BackupSet,
  from: RestorePoint,
  to: RestorePoint,
  clones: readonly ClonePin[],
): readonly RestorePoint[] {
  const line = lineOf(set, from, to);
  refuseNeeded(set, line, clones);
  return line;
}

/** Throws 'usage' when anything but the next one of the line needs a point that would be gone. */
function refuseNeeded(set: BackupSet, line: readonly RestorePoint[], clones: readonly ClonePin[]): void {
  for (const [i, point] of line.slice(0, -1).entries()) {
    const branch = childrenOf(set, point).find(child => child !== line[i + 1]);
    if (branch !== undefined) {
      const message = `${set.name}@${branch.name} branches off ${point.name}, which would be gone`;
      throw new ImageError('usage', message, {}, { hint: `consolidate up to ${point.name}, and from there` });
    }
    const clone = clones.find(pin => pin.set === set.name && pin.point === point.name);
    if (clone === undefined) continue;
    const message = `clone ${clone.name} was made of ${set.name}@${point.name}, which would be gone`;
    throw new ImageError('usage', message, {}, { hint: `delete the clone, or consolidate up to ${point.name}` });
  }
}

/**
 * What a run left that was stopped when the file of `to` held all of the range already: points that are to be removed, base
 * first, and `to`. They are removed from the tip on, so that some may be gone. null: there was no such run.
 */
async function leftOf(spec: ConsolidateSpec, to: RestorePoint): Promise<readonly RestorePoint[] | null> {
  const { set, store, format } = spec;
  const held = (await format.heldTimes(store, to.file)).map(timeName);
  const from = pointNamed(set, spec.from)?.name ?? spec.from.slice(spec.from.lastIndexOf('@') + 1);
  if (from === to.name || !held.includes(from)) return null;
  // In the order of the chain, which a reverse one does not have by its times.
  const wanted = held.slice(held.indexOf(from)).filter(name => name !== to.name);
  const left = [...new Set(wanted)].flatMap(name => set.points.find(point => point.name === name) ?? []);
  const line = [...left, to];
  refuseNeeded(set, line, spec.clones);
  return line;
}

export interface ConsolidateSpec extends Watch {
  readonly set: BackupSet;
  readonly from: string;
  readonly to: string;
  readonly clones: readonly ClonePin[];
  readonly store: WritableStore;
  readonly format: ChainFormat;
  /** Called before anything is done. */
  planned(gone: readonly RestorePoint[], stays: RestorePoint): void;
}

export interface ConsolidateResult extends Consolidated {
  readonly point: RestorePoint;
  /** Points that are gone. */
  readonly gone: readonly RestorePoint[];
}

/** Throws 'usage', 'not-found', 'busy', and what the format throws; the set is then as it was. */
export async function consolidate(spec: ConsolidateSpec): Promise<ConsolidateResult> {
  const { set, store, format } = spec;
  const to = pointNamed(set, spec.to);
  if (to === null) throw unknown(set, spec.to, '--to');
  const left = await leftOf(spec, to);
  const from = pointNamed(set, spec.from);
  if (left === null && from === null) throw unknown(set, spec.from, '--from');
  const line = left ?? planRange(set, from!, to, spec.clones);
  if (line.length === 1 && left !== null) {
    return { point: to, gone: [], built: false, records: 0, bytes: 0, removed: [] };
  }
  const gone = line.slice(0, -1);
  spec.planned(gone, to);
  const { signal } = spec;
  const result = await format.consolidate(store, {
    files: line.map(point => point.file),
    signal,
    progress: (done, total) => spec.progress(done, total),
  });
  return { ...result, point: to, gone };
}

const unknown = (set: BackupSet, name: string, field: string): ImageError => {
  const known = set.points.map(point => point.name).slice(-5);
  const message = `set ${set.name} has no restore point ${JSON.stringify(name)}`;
  return new ImageError('not-found', message, { field }, { hint: `newest ones: ${known.join(', ')}` });
};

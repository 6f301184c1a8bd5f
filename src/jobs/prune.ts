/** Retention: which points of a set stay by which rule, and the steps by which the others go. */
import type { WritableStore } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import type { BackupSet, RestorePoint } from '../chain/point.ts';
import { type ChainFormat, type ClonePin, childrenOf } from './consolidate.ts';
import type { Watch } from './sparse.ts';

/** How many points each rule keeps, counted back from the newest; periods are those of UTC, as point names are. */
export interface KeepRules {
  readonly last: number;
  /** The newest point of each of so many days, weeks (from Monday), months that have any. */
  readonly daily: number;
  readonly weekly: number;
  readonly monthly: number;
}

export interface Decision {
  readonly point: RestorePoint;
  readonly keep: boolean;
  /** Why it stays, or what becomes of it. */
  readonly reason: string;
}

export type Step =
  | { readonly kind: 'drop'; readonly point: RestorePoint }
  /** In the order of the chain, base first; the last one stays. */
  | { readonly kind: 'merge'; readonly points: readonly RestorePoint[] };

export interface Plan {
  /** Oldest first. */
  readonly decisions: readonly Decision[];
  readonly steps: readonly Step[];
}

const DAY = 86_400_000;

/** The Monday of the week, as a day number. 1 January 1970 was a Thursday. */
const weekOf = (time: Date): number => Math.floor((Math.floor(time.getTime() / DAY) + 3) / 7);

const PERIODS: readonly (readonly [rule: 'daily' | 'weekly' | 'monthly', of: (time: Date) => string])[] = [
  ['daily', time => time.toISOString().slice(0, 10)],
  ['weekly', time => String(weekOf(time))],
  ['monthly', time => time.toISOString().slice(0, 7)],
];

/** The rules that keep each point, by name. */
function byRules(set: BackupSet, rules: KeepRules): ReadonlyMap<RestorePoint, readonly string[]> {
  const kept = new Map<RestorePoint, string[]>();
  const keep = (point: RestorePoint, why: string): void => {
    kept.set(point, [...(kept.get(point) ?? []), why]);
  };
  const newestFirst = [...set.points].reverse();
  for (const [i, point] of newestFirst.slice(0, rules.last).entries()) keep(point, `last ${i + 1}`);
  for (const [rule, of] of PERIODS) {
    const seen = new Set<string>();
    for (const point of newestFirst) {
      if (point.time === null || seen.size >= rules[rule] || seen.has(of(point.time))) continue;
      seen.add(of(point.time));
      keep(point, `${rule} ${seen.size}`);
    }
  }
  return kept;
}

/** Why a point stays although no rule keeps it; null: it can go. */
function pinnedBy(point: RestorePoint, clones: readonly ClonePin[]): string | null {
  const clone = clones.find(pin => pin.set === point.set && pin.point === point.name);
  if (clone !== undefined) return `clone ${clone.name} was made of it`;
  if (point.problem !== null && point.state !== 'locked') return `cannot be read: ${point.problem.message}`;
  return point.time === null ? 'has no time' : null;
}

/** Newest first, but each point after all that build on it: in a reverse chain these are older. */
function leavesFirst(set: BackupSet): readonly RestorePoint[] {
  const ordered: RestorePoint[] = [];
  const seen = new Set<RestorePoint>();
  for (const point of [...set.points].reverse()) {
    const way = seen.has(point) ? [] : [point];
    seen.add(point);
    for (let at = way.at(-1); at !== undefined; at = way.at(-1)) {
      const child = childrenOf(set, at).findLast(one => !seen.has(one));
      if (child === undefined) ordered.push(way.pop()!);
      else {
        seen.add(child);
        way.push(child);
      }
    }
  }
  return ordered;
}

export function planPrune(set: BackupSet, rules: KeepRules, clones: readonly ClonePin[]): Plan {
  const kept = byRules(set, rules);
  const decided = new Map<RestorePoint, Decision>();
  /** Points that stay, and those that something that stays is built on. */
  const needed = new Set<RestorePoint>();
  /** The point that stays and takes over what it needs of one that goes. */
  const heirs = new Map<RestorePoint, RestorePoint>();
  const steps: Step[] = [];
  for (const point of leavesFirst(set)) {
    const above = childrenOf(set, point).filter(child => needed.has(child));
    const branches = above.length > 1 ? `${above.length} points branch off it` : null;
    const why = kept.get(point)?.join(', ') ?? pinnedBy(point, clones) ?? branches;
    if (why !== null) {
      decided.set(point, { point, keep: true, reason: why });
      needed.add(point);
      continue;
    }
    const heir = above[0];
    if (heir === undefined) {
      decided.set(point, { point, keep: false, reason: 'no rule keeps it; its file goes' });
      steps.push({ kind: 'drop', point });
    } else {
      const into = heirs.get(heir) ?? heir;
      heirs.set(point, into);
      decided.set(point, { point, keep: false, reason: `no rule keeps it; consolidated into ${into.name}` });
      needed.add(point);
    }
  }
  for (const point of set.points) if (decided.get(point)!.keep) steps.push(...mergeInto(set, point, decided));
  return { decisions: set.points.map(point => decided.get(point)!), steps };
}

/** The run of points under `point` that go. */
function mergeInto(set: BackupSet, point: RestorePoint, decided: ReadonlyMap<RestorePoint, Decision>): readonly Step[] {
  const points = [point];
  for (;;) {
    const below = set.points.find(other => other.name === points[0]!.parent);
    if (below === undefined || decided.get(below)!.keep) break;
    if (points.includes(below)) {
      const message = `${set.name}@${below.name} is said to be made on itself`;
      throw new ImageError('broken-chain', message, { file: below.file }, { hint: 'run verify' });
    }
    points.unshift(below);
  }
  return points.length === 1 ? [] : [{ kind: 'merge', points }];
}

export interface PruneSpec extends Watch {
  readonly plan: Plan;
  readonly store: WritableStore;
  readonly format: ChainFormat;
  done(step: Step): void;
}

/** Each step leaves a set that is whole; what was stopped is completed by planning and pruning again. */
export async function prune(spec: PruneSpec): Promise<void> {
  const { plan, store, format, signal } = spec;
  const total = plan.steps.length;
  for (const [i, step] of plan.steps.entries()) {
    signal.throwIfAborted();
    if (step.kind === 'drop') await format.drop(store, step.point.file);
    else {
      const files = step.points.map(point => point.file);
      await format.consolidate(store, { files, signal, progress: (done, all) => spec.progress(i + done / all, total) });
    }
    spec.done(step);
    spec.progress(i + 1, total);
  }
}

import { ImageError } from '../base/errors.ts';
import type { BackupSet, Repository, RestorePoint } from './point.ts';

export function findSet(repository: Repository, name: string): BackupSet {
  const set = repository.sets.find(s => s.name === name);
  if (set !== undefined) return set;
  if (name === '' && repository.sets.length === 1) return repository.sets[0]!;
  const known = repository.sets.map(s => s.name).join(', ') || 'none';
  throw new ImageError('not-found', `there is no set ${JSON.stringify(name)}`, {}, { hint: `sets here: ${known}` });
}

function newest(set: BackupSet, before: number): RestorePoint {
  const point = set.points.at(-1 - before);
  if (point === undefined) {
    throw new ImageError('not-found', `set ${set.name} has only ${set.points.length} restore points`);
  }
  return point;
}

/**
 * `SET@POINT`, `SET` (its latest), `SET@latest`, `SET@~2` (two before latest); the set may be left out where there is
 * only one. A point that is broken or locked throws its own problem: it is never replaced by an older one in silence.
 * `lockedToo`: its key is not needed.
 */
export function findPoint(repository: Repository, spec: string, lockedToo = false): RestorePoint {
  const at = spec.lastIndexOf('@');
  const set = findSet(repository, at < 0 ? spec : spec.slice(0, at));
  const name = at < 0 ? 'latest' : spec.slice(at + 1);
  const back = /^~(\d{1,9})$/.exec(name);
  let point: RestorePoint | undefined;
  if (name === 'latest') point = newest(set, 0);
  else if (back !== null) point = newest(set, Number(back[1]));
  else point = set.points.find(p => p.name === name);
  if (point === undefined) {
    const known = set.points
      .slice(-5)
      .map(p => p.name)
      .join(', ');
    throw new ImageError(
      'not-found',
      `set ${set.name} has no restore point ${JSON.stringify(name)}`,
      {},
      { hint: `newest ones: ${known}` },
    );
  }
  if (point.problem !== null && !(lockedToo && point.state === 'locked')) {
    const readable = set.points.findLast(p => p.state === 'ok');
    const hint =
      point.problem.hint ??
      (readable === undefined ? undefined : `the newest one that can be read is ${set.name}@${readable.name}`);
    throw new ImageError(
      point.problem.fault,
      `${set.name}@${point.name} cannot be read: ${point.problem.message}`,
      point.problem.where,
      hint === undefined ? { cause: point.problem } : { cause: point.problem, hint },
    );
  }
  return point;
}

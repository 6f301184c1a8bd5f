/** What differs between the files of two points: both trees are walked side by side, and content is compared. */
import { ImageError } from '../base/errors.ts';
import { type DiskChanges, sameAttributes, sameContent } from './compare.ts';
import { BATCH, FEW_RANGES, type PointDir, type PointFile, type PointNode } from './point-files.ts';
import { walkBelow } from './walk.ts';

export type DifferenceKind = 'added' | 'removed' | 'changed' | 'attributes' | 'unreadable';

export interface Difference {
  readonly path: string;
  readonly kind: DifferenceKind;
  readonly before: PointNode | null;
  readonly after: PointNode | null;
  readonly problem: ImageError | null;
}

export interface DifferencesSpec {
  readonly changes: DiskChanges;
  /** Reads files of the same size and time too, where the layers do not tell that they are the same. */
  readonly content: boolean;
  readonly signal: AbortSignal;
}

type Child = PointNode | ImageError | undefined;

const plain = (path: string, kind: DifferenceKind, before: PointNode | null, after: PointNode | null): Difference => ({
  path,
  kind,
  before,
  after,
  problem: null,
});

async function* allOf(
  path: string,
  node: PointNode,
  kind: 'added' | 'removed',
  signal: AbortSignal,
): AsyncIterable<Difference> {
  const one = (its: string, found: PointNode): Difference =>
    kind === 'added' ? plain(its, kind, null, found) : plain(its, kind, found, null);
  yield one(path, node);
  if (node.kind !== 'dir') return;
  for await (const { path: below, node: found } of walkBelow(node)) {
    signal.throwIfAborted();
    const its = `${path}/${below}`;
    if (!(found instanceof ImageError)) yield one(its, found);
    else yield { path: its, kind: 'unreadable', before: null, after: null, problem: found };
  }
}

/** null: nothing that can be told. */
async function fileChange(a: PointFile, b: PointFile, spec: DifferencesSpec): Promise<DifferenceKind | null> {
  const attributes = sameAttributes(a, b) ? null : 'attributes';
  if (a.size !== b.size) return 'changed';
  const known = spec.changes.every(its => its !== null);
  // Without knowledge of the layers, what has the same size and time counts as the same, as for rsync.
  if (!known && !spec.content && a.mtime.getTime() === b.mtime.getTime()) return attributes;
  const same = await sameContent(await a.open(), await b.open(), spec.changes, spec.signal);
  return same ? attributes : 'changed';
}

async function* pair(path: string, a: Child, b: Child, spec: DifferencesSpec): AsyncIterable<Difference> {
  const problem = a instanceof ImageError ? a : b instanceof ImageError ? b : null;
  if (a instanceof ImageError || b instanceof ImageError) {
    yield { path, kind: 'unreadable', before: null, after: null, problem };
    return;
  }
  if (a === undefined || b === undefined || a.kind !== b.kind) {
    if (a !== undefined) yield* allOf(path, a, 'removed', spec.signal);
    if (b !== undefined) yield* allOf(path, b, 'added', spec.signal);
    return;
  }
  try {
    if (a.kind === 'file' && b.kind === 'file') {
      const kind = await fileChange(a, b, spec);
      if (kind !== null) yield plain(path, kind, a, b);
      return;
    }
    const target = a.kind === 'link' && b.kind === 'link' && a.target !== b.target;
    if (target || (a.kind !== 'dir' && !sameAttributes(a, b)))
      yield plain(path, target ? 'changed' : 'attributes', a, b);
    // The time of a folder changes with its names, which are told by themselves.
    else if (a.kind === 'dir' && !sameAttributes({ ...a, mtime: b.mtime }, b)) yield plain(path, 'attributes', a, b);
    if (a.kind === 'dir' && b.kind === 'dir') yield* differencesOf(a, b, spec, path);
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    spec.signal.throwIfAborted();
    yield { path, kind: 'unreadable', before: a, after: b, problem: error };
  }
}

async function childrenOf(
  dir: PointDir,
  names: readonly string[],
): Promise<ReadonlyMap<string, PointNode | ImageError>> {
  if (names.length === 0) return new Map();
  const nodes = await dir.children(names, FEW_RANGES);
  return new Map(names.map((name, i) => [name, nodes[i]!]));
}

/** In the order of the names; a folder before what it holds. */
export async function* differencesOf(
  a: PointDir,
  b: PointDir,
  spec: DifferencesSpec,
  above = '',
): AsyncIterable<Difference> {
  const [ours, theirs] = [await a.list(), await b.list()].map(list => new Set(list.map(({ name }) => name)));
  const names = [...new Set([...ours!, ...theirs!])].sort();
  for (let from = 0; from < names.length; from += BATCH) {
    const batch = names.slice(from, from + BATCH);
    const before = await childrenOf(
      a,
      batch.filter(name => ours!.has(name)),
    );
    const after = await childrenOf(
      b,
      batch.filter(name => theirs!.has(name)),
    );
    for (const name of batch) {
      spec.signal.throwIfAborted();
      yield* pair(above === '' ? name : `${above}/${name}`, before.get(name), after.get(name), spec);
    }
  }
}

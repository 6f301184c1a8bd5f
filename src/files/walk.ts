import { ImageError } from '../base/errors.ts';
import { BATCH, type PointDir, type PointNode } from './point-files.ts';

export interface Visited {
  /** Below the folder that the walk began at; its own is empty. */
  readonly path: string;
  readonly name: string;
  /** An error stands for what cannot be read; the walk goes on. */
  readonly node: PointNode | ImageError;
  /** 1 for what lies in the folder itself. */
  readonly depth: number;
  /** No other follows in the same folder. */
  readonly last: boolean;
}

/** Everything below a folder, each folder before what it holds, names in code-unit order. `deepest`: levels to go down. */
export async function* walkBelow(
  dir: PointDir,
  deepest = Number.POSITIVE_INFINITY,
  above = '',
  depth = 1,
): AsyncIterable<Visited> {
  const names = (await dir.list()).map(({ name }) => name).sort();
  for (let from = 0; from < names.length; from += BATCH) {
    const batch = names.slice(from, from + BATCH);
    for (const [i, node] of (await dir.children(batch)).entries()) {
      const name = batch[i]!;
      const path = above === '' ? name : `${above}/${name}`;
      const last = from + i === names.length - 1;
      yield { path, name, node, depth, last };
      if (node instanceof ImageError || node.kind !== 'dir' || depth >= deepest) continue;
      try {
        yield* walkBelow(node, deepest, path, depth + 1);
      } catch (error) {
        if (!(error instanceof ImageError)) throw error;
        yield { path, name, node: error, depth, last };
      }
    }
  }
}

/** Files inside restore points, named `POINT:/volume/path`, without mounting anything. */
import type { Argv } from 'yargs';
import { ImageError } from '../base/errors.ts';
import { findPoint } from '../chain/find.ts';
import type { Repository, RestorePoint } from '../chain/point.ts';
import { Parser } from '../files/parser.ts';
import { nodeAt } from '../files/path.ts';
import { openPointFiles, type PointFiles, type PointNode } from '../files/point-files.ts';
import { openRepo } from './open.ts';
import { type ScratchArgs, scratchOptions } from './scratch.ts';
import { type KeyArgs, keyOptions, keyring, type VolumeKeyArgs, volumeKeyOption, volumeSecrets } from './secrets.ts';
import type { Context } from './verb.ts';

export interface Place {
  readonly point: RestorePoint;
  readonly files: PointFiles;
  /** Names from the volume's on. */
  readonly path: readonly string[];
  /** The last of them; empty for the folder of all volumes. */
  readonly name: string;
  readonly node: PointNode;
}

export interface PointReader extends AsyncDisposable {
  readonly repository: Repository;
  readonly parser: Parser;
  /** What lies at `POINT:/path`; links on the way are followed inside the volume, the last one where `follow` says so. */
  find(text: string, follow: boolean): Promise<Place>;
  open(point: RestorePoint): Promise<PointFiles>;
}

export type PointArgs = KeyArgs & VolumeKeyArgs & ScratchArgs & { readonly repo: string };

export const pointOptions = (yargs: Argv): Argv =>
  volumeKeyOption(
    keyOptions(
      scratchOptions(yargs).option('repo', {
        type: 'string',
        nargs: 1,
        demandOption: true,
        describe: 'folder of backups, or one file',
      }),
    ),
  );

export const PATH_HELP = 'SET@POINT:/volume/path, as below `files` in a mount (SET alone: its latest)';

/** Set or point, and the names of the path. */
export function splitPlace(text: string): { readonly point: string; readonly path: readonly string[] } {
  const colon = text.indexOf(':/');
  if (colon < 0) {
    const hint = 'for example web01@latest:/p2-ext4-root/etc/fstab';
    throw new ImageError('usage', `${JSON.stringify(text)} is not POINT:/volume/path`, {}, { hint });
  }
  const path = text.slice(colon + 1).split('/');
  return { point: text.slice(0, colon), path: path.filter(part => part !== '') };
}

/** Opens the repository for a verb that looks into points. Keys are asked for on a terminal. */
export async function openPointReader(args: PointArgs, context: Context): Promise<PointReader> {
  await using opening = new AsyncDisposableStack();
  const keys = opening.use(keyring(args, { ask: true }));
  const secrets = volumeSecrets(args);
  const parser = opening.use(new Parser({ secrets: async () => secrets }));
  // It starts while the repository is opened.
  parser.warm();
  const { repository } = opening.use(await openRepo(args.repo, keys, context, args));
  const points = new Map<RestorePoint, Promise<PointFiles>>();
  const open = (point: RestorePoint): Promise<PointFiles> => {
    const known = points.get(point) ?? openPointFiles(parser, point);
    points.set(point, known);
    return known;
  };
  const opened = opening.move();
  return {
    repository,
    parser,
    open,
    async find(text, follow) {
      const { point: spec, path } = splitPlace(text);
      const point = findPoint(repository, spec);
      const files = await open(point);
      return { point, files, path, name: path.at(-1) ?? '', node: await nodeAt(files, path, follow) };
    },
    [Symbol.asyncDispose]: () => opened.disposeAsync(),
  };
}

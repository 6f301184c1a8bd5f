/** A disk of a restore point into a new file, with progress and a last line that says what was done. */
import fs from 'node:fs';
import path from 'node:path';
import type { Disk } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import type { Repository, RestorePoint } from '../chain/point.ts';
import { restore } from '../jobs/restore.ts';
import { fileWriters } from '../registry.ts';
import { openWritten, type restoreTarget } from './target.ts';
import { display, formatDuration, formatSize } from './text.ts';
import type { Bar, Context } from './verb.ts';

export function diskNumber(point: RestorePoint, wanted: string | undefined): number {
  const names = point.disks.map(disk => disk.name);
  const spec = `${point.set}@${point.name}`;
  if (wanted !== undefined) {
    const number = names.indexOf(wanted);
    if (number >= 0) return number;
    throw new ImageError('not-found', `${spec} has no disk ${wanted}`, {}, { hint: `--disk ${names.join(' | ')}` });
  }
  if (names.length === 1) return 0;
  const hint = `--disk ${names.join(' | ')}`;
  throw new ImageError('usage', `${spec} has ${names.length} disks: say which one`, { field: '--disk' }, { hint });
}

/** A restore over a file of the repository would destroy what it reads. */
export function refuseOwnFiles(file: string, repo: string, repository: Repository): void {
  const root = fs.realpathSync(repo);
  const folder = fs.statSync(root).isDirectory() ? root : path.dirname(root);
  const target = fs.realpathSync(path.dirname(path.resolve(file)));
  const inside = path.relative(folder, path.join(target, path.basename(file)));
  const files = new Set(repository.sets.flatMap(set => set.points).flatMap(point => [...point.files, point.file]));
  // By its inode too: a link, or a second name, leads to the same bytes.
  const there = fs.statSync(file, { throwIfNoEntry: false });
  const same = (name: string): boolean => {
    const stat = fs.statSync(path.join(folder, name), { throwIfNoEntry: false });
    return there?.isFile() === true && stat?.ino === there.ino && stat.dev === there.dev;
  };
  if (!files.has(inside) && ![...files].some(same)) return;
  throw new ImageError('usage', 'that is a file of the backup itself', { file });
}

export interface FileRestore {
  /** As the user named it. */
  readonly file: string;
  readonly point: RestorePoint;
  /** Name of the disk in the point. */
  readonly name: string;
  readonly disk: Disk;
  /** What an unfinished file must be of to be continued. */
  readonly identity: string;
  /** `raw`, `luks` or the name of a file writer. */
  readonly format: string;
  readonly target: ReturnType<typeof restoreTarget>;
}

export async function restoreToFile(spec: FileRestore, context: Context): Promise<void> {
  const begin = performance.now();
  const { file, point, name, disk, identity, format, target } = spec;
  let bar: Bar = context.progress('restoring', disk.size);
  try {
    const result = await restore({
      disk,
      identity,
      format,
      target,
      readBack: true,
      write: fileWriters[format] ?? null,
      reopen: () => openWritten(target.partial),
      signal: context.signal,
      progress: done => bar.at(done),
      checking() {
        bar.end();
        bar = context.progress('reading back', disk.size);
      },
    });
    bar.end();
    const ms = performance.now() - begin;
    const from = `${point.set}@${point.name}`;
    if (context.json) {
      context.outJson({ point: from, disk: name, file, format, size: disk.size, ...result });
      return;
    }
    const resumed = result.resumedAt > 0 ? `, continued at ${formatSize(result.resumedAt)}` : '';
    const what = `${formatSize(result.written)} written for ${formatSize(disk.size)}${resumed}`;
    context.out(
      `${display(file)}: ${display(from)} ${display(name)} as ${format}: ${what}, read back, ${formatDuration(ms)}`,
    );
  } catch (error) {
    bar.end();
    if (fs.existsSync(target.partial)) {
      context.note(`bootmount: ${display(target.partial)} is kept: the same command continues it`);
    }
    throw error;
  }
}

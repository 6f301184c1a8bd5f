import fs from 'node:fs';
import path from 'node:path';
import type { Disk } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { openDiskFile } from '../chain/file.ts';
import { findPoint } from '../chain/find.ts';
import type { Repository, RestorePoint } from '../chain/point.ts';
import { pickAdapter, readEnds } from '../chain/scan.ts';
import { restore } from '../jobs/restore.ts';
import { type InPlaceResult, restoreInPlace } from '../jobs/restore-in-place.ts';
import { adapters, fileWriters } from '../registry.ts';
import { localFileStore } from '../stores/local.ts';
import { FILE_FORMATS, formatByName } from './file-format.ts';
import { openRepo } from './open.ts';
import { type ScratchArgs, scratchOptions } from './scratch.ts';
import { type KeyArgs, keyOptions, keyring } from './secrets.ts';
import { inPlaceTarget, restoreTarget } from './target.ts';
import { display, formatDuration, formatSize } from './text.ts';
import type { Bar, Context, Verb } from './verb.ts';

type RestoreArgs = KeyArgs &
  ScratchArgs & {
    readonly point: string;
    readonly file: string;
    readonly repo: string;
    readonly format?: string;
    readonly disk?: string;
    readonly force: boolean;
    readonly inPlace: boolean;
  };

/** As the file's name says, unless said otherwise; a device or a name that says nothing is raw. */
function formatFor(args: RestoreArgs): string {
  if (args.format !== undefined) return args.format;
  return formatByName(args.file) ?? 'raw';
}

function diskNumber(point: RestorePoint, wanted: string | undefined): number {
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
function refuseOwnFiles(file: string, repo: string, repository: Repository): void {
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

/** What is there may be a container of another format, which raw blocks would destroy. */
async function refuseContainers(args: RestoreArgs): Promise<void> {
  if (formatFor(args) !== 'raw') {
    throw new ImageError('usage', 'in place only raw disks are restored', { field: '--in-place' });
  }
  if (args.force) throw new ImageError('usage', '--in-place and --force exclude each other');
  if (args.format === 'raw' || !fs.existsSync(args.file)) return;
  await using store = localFileStore(args.file);
  await using source = await store.open(path.basename(args.file));
  const ends = await readEnds(source);
  const found = pickAdapter(adapters, ends, path.basename(args.file));
  if (found === null || found.name === 'raw') return;
  const message = `looks like a ${found.name} file, not like a raw disk`;
  throw new ImageError('usage', message, { file: args.file }, { hint: '--format raw if it is one all the same' });
}

/** Writes over what is there, and says what was done. */
async function overwrite(args: RestoreArgs, from: { point: RestorePoint; name: string }, disk: Disk, context: Context) {
  const begin = performance.now();
  await using target = await inPlaceTarget(args.file, disk.size);
  let bar: Bar = context.progress('restoring', disk.size);
  let result: InPlaceResult;
  try {
    result = await restoreInPlace({
      disk,
      file: target.file,
      signal: context.signal,
      progress: done => bar.at(done),
      checking() {
        bar.end();
        bar = context.progress('reading back', disk.size);
      },
    });
  } catch (error) {
    context.note(`bootmount: ${display(args.file)} may be part old, part new: the same command completes it`);
    throw error;
  } finally {
    bar.end();
  }
  const point = `${from.point.set}@${from.point.name}`;
  if (context.json) {
    const summary = { point, disk: from.name, file: args.file, format: 'raw', size: disk.size };
    context.outJson({ ...summary, inPlace: true, ...result });
    return;
  }
  const what = `${formatSize(result.written)} of ${formatSize(disk.size)} differed and were written`;
  const time = formatDuration(performance.now() - begin);
  context.out(display(`${args.file}: ${point} ${from.name} in place: ${what}, read back, ${time}`));
}

export const command: Verb = {
  name: 'restore',
  positionals: '<point> <file>',
  summary: 'Write a disk of a restore point to a file: sparse, resumable, and read back',
  example: 'bootmount restore web01@latest disk.qcow2 --repo /srv/backups --format qcow2',
  build: yargs =>
    keyOptions(
      scratchOptions(yargs)
        .positional('point', { type: 'string', describe: 'SET@POINT, SET (its latest), SET@~1 (one before)' })
        .positional('file', { type: 'string', describe: 'file to make' })
        .option('repo', { type: 'string', nargs: 1, demandOption: true, describe: 'folder of backups, or one file' })
        .option('format', { choices: FILE_FORMATS, nargs: 1, describe: "default: as the file's name ends, else raw" })
        .option('disk', { type: 'string', nargs: 1, describe: 'which disk, when the point has several' })
        .option('in-place', {
          type: 'boolean',
          default: false,
          describe: 'write over an existing raw file or block device, only what differs',
        })
        .option('force', { type: 'boolean', default: false, describe: 'overwrite the file' }),
    ),
  async run(args: RestoreArgs, context) {
    const begin = performance.now();
    using keys = keyring(args, { ask: true });
    if (args.inPlace) await refuseContainers(args);
    const target = args.inPlace ? null : restoreTarget(args.file, args.force);
    await using opened = await openRepo(args.repo, keys, context, args);
    refuseOwnFiles(args.file, args.repo, opened.repository);
    const point = findPoint(opened.repository, args.point);
    const number = diskNumber(point, args.disk);
    const name = point.disks[number]!.name;
    const format = formatFor(args);
    await using disk = await point.openDisk(number);
    if (target === null) return overwrite(args, { point, name }, disk, context);
    let bar: Bar = context.progress('restoring', disk.size);
    try {
      const result = await restore({
        disk,
        identity: `${point.identity}/${name}`,
        format,
        target,
        readBack: true,
        write: format === 'raw' ? null : fileWriters[format]!,
        reopen: () =>
          openDiskFile(
            path.basename(target.partial),
            localFileStore(target.partial),
            adapters,
            keyring({}, { ask: false }),
          ),
        signal: context.signal,
        progress: done => bar.at(done),
        checking() {
          bar.end();
          bar = context.progress('reading back', disk.size);
        },
      });
      bar.end();
      const ms = performance.now() - begin;
      const summary = {
        point: `${point.set}@${point.name}`,
        disk: name,
        file: args.file,
        format,
        size: disk.size,
        ...result,
      };
      if (context.json) context.outJson(summary);
      else {
        const resumed = result.resumedAt > 0 ? `, continued at ${formatSize(result.resumedAt)}` : '';
        const what = `${formatSize(result.written)} written for ${formatSize(disk.size)}${resumed}`;
        context.out(
          `${display(args.file)}: ${display(summary.point)} ${display(name)} as ${format}: ${what}, read back, ${formatDuration(ms)}`,
        );
      }
    } catch (error) {
      bar.end();
      if (fs.existsSync(target.partial)) {
        context.note(`bootmount: ${display(target.partial)} is kept: the same command continues it`);
      }
      throw error;
    }
  },
};

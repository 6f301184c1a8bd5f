import fs from 'node:fs';
import path from 'node:path';
import type { Disk } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { findPoint } from '../chain/find.ts';
import type { RestorePoint } from '../chain/point.ts';
import { pickAdapter, readEnds } from '../chain/scan.ts';
import { type InPlaceResult, restoreInPlace } from '../jobs/restore-in-place.ts';
import { adapters } from '../registry.ts';
import { localFileStore } from '../stores/local.ts';
import { FILE_FORMATS, formatByName } from './file-format.ts';
import { openRepo } from './open.ts';
import { diskNumber, refuseOwnFiles, restoreToFile } from './restore-file.ts';
import { restoreLuks } from './restore-luks.ts';
import { type ScratchArgs, scratchOptions } from './scratch.ts';
import { type KeyArgs, keyOptions, keyring } from './secrets.ts';
import { inPlaceTarget, restoreTarget } from './target.ts';
import { display, formatDuration, formatSize } from './text.ts';
import type { Bar, Context, Verb } from './verb.ts';

export type RestoreArgs = KeyArgs &
  ScratchArgs & {
    readonly point: string;
    readonly file: string;
    readonly repo: string;
    readonly format?: string;
    readonly disk?: string;
    readonly force: boolean;
    readonly inPlace: boolean;
    readonly luks: boolean;
    readonly decrypt: boolean;
  };

/** As the file's name says, unless said otherwise; a device or a name that says nothing is raw. */
function formatFor(args: RestoreArgs): string {
  if (args.format !== undefined) return args.format;
  return formatByName(args.file) ?? 'raw';
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
        .option('luks', {
          type: 'boolean',
          default: false,
          describe: 'a LUKS image that the keys of the set open; of a set of cipher aes-256-xts, with --no-decrypt',
        })
        .option('decrypt', {
          type: 'boolean',
          default: true,
          describe: '--no-decrypt leaves encrypted what is: no key is needed',
        })
        .option('force', { type: 'boolean', default: false, describe: 'overwrite the file' }),
    ),
  async run(args: RestoreArgs, context) {
    if (args.luks || !args.decrypt) return restoreLuks(args, context);
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
    const identity = `${point.identity}/${name}`;
    await restoreToFile({ file: args.file, point, name, disk, identity, format, target }, context);
  },
};

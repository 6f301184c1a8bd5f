/** `restore --no-decrypt --luks`: an encrypted disk as a LUKS image, on a machine that has no key. */
import { ImageError } from '../base/errors.ts';
import { findPoint } from '../chain/find.ts';
import { luksImages } from '../registry.ts';
import { refuseKeys } from './chain-set.ts';
import { openRepo } from './open.ts';
import type { RestoreArgs } from './restore.ts';
import { diskNumber, refuseOwnFiles, restoreToFile } from './restore-file.ts';
import { restoreTarget } from './target.ts';
import type { Context } from './verb.ts';

function checkArgs(args: RestoreArgs): void {
  if (!args.luks) {
    const message = 'what stays encrypted needs a format that says so';
    throw new ImageError('usage', message, { field: '--no-decrypt' }, { hint: '--no-decrypt --luks' });
  }
  if (args.decrypt) {
    const message = 'a LUKS image is made of what is stored, which is never decrypted';
    throw new ImageError('usage', message, { field: '--luks' }, { hint: '--no-decrypt --luks' });
  }
  if (args.format !== undefined) throw new ImageError('usage', '--luks and --format exclude each other');
  if (args.inPlace) throw new ImageError('usage', '--luks and --in-place exclude each other');
  refuseKeys(args);
}

export async function restoreLuks(args: RestoreArgs, context: Context): Promise<void> {
  checkArgs(args);
  const target = restoreTarget(args.file, args.force);
  await using opened = await openRepo(args.repo, { secrets: async () => [] }, context, args);
  refuseOwnFiles(args.file, args.repo, opened.repository);
  const point = findPoint(opened.repository, args.point, true);
  const { name } = point.disks[diskNumber(point, args.disk)]!;
  const open = luksImages[point.adapter];
  if (open === undefined) {
    const message = `${point.set} is a set of ${point.adapter} images, which have no sectors of LUKS in them`;
    throw new ImageError('unsupported', message, { field: '--luks' }, { hint: 'restore it with its key' });
  }
  await using disk = await open(opened.store, { file: point.file, time: point.time, disk: name });
  await restoreToFile({ file: args.file, point, name, disk, identity: disk.id, format: 'luks', target }, context);
}

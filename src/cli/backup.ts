import { ImageError } from '../base/errors.ts';
import { isPowerOfTwo } from '../base/range.ts';
import { timeName } from '../chain/names.ts';
import { backup } from '../jobs/backup.ts';
import { firstDifference } from '../jobs/sparse.ts';
import { localWritableStore } from '../stores/local.ts';
import { createLayer, type Plan, planBackup } from './backup-plan.ts';
import { openRepo } from './open.ts';
import { type KeyArgs, keyOptions, keyring, type SecretRing } from './secrets.ts';
import { openSource, type Source } from './source.ts';
import { display, formatDuration, formatSize, parseSize } from './text.ts';
import { type Allocated, allocatedOf, wholly } from './unallocated.ts';
import type { Context, Verb } from './verb.ts';

const TYPES = ['auto', 'full', 'incremental', 'differential'] as const;
const ALLOCATED = ['extent', 'fs'] as const;
const CIPHERS = ['aes-256-gcm', 'aes-256-xts'] as const;

export type BackupArgs = KeyArgs & {
  readonly source: string;
  readonly repo: string;
  readonly set: string;
  readonly type: (typeof TYPES)[number];
  readonly encrypt: boolean;
  readonly cipher?: (typeof CIPHERS)[number];
  readonly blockSize?: string;
  readonly compression: number;
  readonly time?: string;
  readonly sourceFormat?: string;
  readonly verify: boolean;
  readonly allocated: (typeof ALLOCATED)[number];
};

/** A set's name is a folder's name and half of `SET@POINT`. */
function checkSetName(set: string): void {
  if (/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(set)) return;
  const message = `${JSON.stringify(set)} is no name for a set: letters, digits, '.', '_' and '-', up to 64 of them`;
  throw new ImageError('usage', message, { field: '--set' });
}

function blockSizeOf(text: string | undefined): number | null {
  if (text === undefined) return null;
  const size = parseSize(text, '--block-size');
  if (isPowerOfTwo(size) && size >= 4096 && size <= 16 * 2 ** 20) return size;
  throw new ImageError('usage', 'a block size is a power of two from 4K to 16M', { field: '--block-size' });
}

function timeOf(text: string | undefined): Date {
  if (text === undefined) return new Date();
  const named = /^(\d{4}-\d\d-\d\dT\d\d)-(\d\d)-(\d\dZ)$/.exec(text);
  const time = new Date(named === null ? text : `${named[1]}:${named[2]}:${named[3]}`);
  if (!Number.isNaN(time.getTime())) return time;
  throw new ImageError('usage', `${JSON.stringify(text)} is no time such as 2026-11-02T02:00:00Z`, { field: '--time' });
}

/** Reads the new restore point through its chain and compares it with the source. */
async function compareWithSource(
  args: BackupArgs,
  file: string,
  source: Pick<Source, 'disks'>,
  keys: SecretRing,
  context: Context,
): Promise<void> {
  await using opened = await openRepo(args.repo, keys, context);
  const point = opened.repository.sets.flatMap(set => set.points).find(p => p.file === file);
  if (point === undefined) throw new ImageError('corrupt', 'the new restore point is not there', { file });
  for (const [number, { name, disk }] of source.disks.entries()) {
    await using stored = await point.openDisk(number);
    const bar = context.progress(`comparing ${name}`, disk.size);
    try {
      const at = await firstDifference(disk, stored, { signal: context.signal, progress: done => bar.at(done) });
      if (at === null) continue;
      const hint = 'a source that is in use changes while it is read: use a snapshot, or a clone';
      throw new ImageError('corrupt', `${name} differs from the source at offset ${at}`, { file }, { hint });
    } finally {
      bar.end();
    }
  }
}

async function copy(
  args: BackupArgs,
  plan: Plan,
  source: Allocated,
  context: Context,
): Promise<{ file: string; read: number; stored: number; changed: number; zeroed: number }> {
  const store = localWritableStore(args.repo);
  const { writer, file } = await createLayer(store, plan);
  await using layer = writer;
  if ((layer.found ?? 0) > 0) {
    const found = formatSize(layer.found!);
    context.note(`bootmount: an interrupted backup is continued: ${found} are stored already, and compared`);
  }
  const bar = context.progress(
    `${plan.spec.type} backup`,
    source.disks.reduce((sum, { disk }) => sum + disk.size, 0),
  );
  try {
    const { id: _, ...counts } = await backup({
      sources: source.disks.map(({ disk }) => disk),
      parents: plan.parentDisks,
      writer: layer,
      blockSize: plan.spec.blockSize,
      beforeCommit: () => source.check(),
      signal: context.signal,
      progress: done => bar.at(done),
    });
    return { file, ...counts };
  } finally {
    bar.end();
  }
}

export const command: Verb = {
  name: 'backup',
  positionals: '<source> <repo>',
  summary: 'Back up a disk file, a block device or a clone, whole or as what changed',
  example: 'bootmount backup web01.qcow2 /srv/backups --set web01 --encrypt --key-file web01.key',
  build: yargs =>
    keyOptions(
      yargs
        .positional('source', { type: 'string', describe: 'disk file, block device, or MNT/clones/NAME' })
        .positional('repo', { type: 'string', describe: 'folder of backups; made when missing' })
        .option('set', { type: 'string', nargs: 1, demandOption: true, describe: 'name of the set' })
        .option('type', {
          choices: TYPES,
          default: 'auto',
          nargs: 1,
          describe: 'auto: incremental where the set has a readable point; differential: on the newest full',
        })
        .option('encrypt', { type: 'boolean', default: false, describe: 'encrypt a new set; later backups follow it' })
        .option('cipher', {
          choices: CIPHERS,
          nargs: 1,
          describe: 'of a new set: gcm unless said; xts stores every block as LUKS has it, for restore --luks',
        })
        .option('block-size', { type: 'string', nargs: 1, describe: 'unit of a new set, 64K by default' })
        .option('compression', {
          type: 'number',
          default: 3,
          nargs: 1,
          describe: 'zstd level 1 to 19; 0 stores as it is',
        })
        .option('source-format', {
          type: 'string',
          nargs: 1,
          describe: 'read the source as this format, never as another',
        })
        .option('allocated', {
          choices: ALLOCATED,
          default: 'extent',
          nargs: 1,
          describe: 'extent: all that is not a hole; fs: without what the file systems of the disk have free',
        })
        .option('time', { type: 'string', nargs: 1, describe: 'time of the restore point, for imports' })
        .option('verify', { type: 'boolean', default: false, describe: 'read the new point back and compare' }),
    ),
  async run(args: BackupArgs, context) {
    const begin = performance.now();
    checkSetName(args.set);
    const blockSize = blockSizeOf(args.blockSize);
    const time = timeOf(args.time);
    if (!Number.isInteger(args.compression) || args.compression < 0 || args.compression > 19) {
      throw new ImageError('usage', 'a compression level is a whole number from 0 to 19', { field: '--compression' });
    }
    using keys = keyring(args, { ask: true });
    await using source = await openSource(args.source, args.sourceFormat ?? null, await context.adapters(), keys);
    for (const warning of source.warnings) context.note(`bootmount: warning: ${display(warning)}`);
    await using plan = await planBackup({ args, blockSize, time, source, keys, context });
    const allocated =
      args.allocated === 'fs' ? await allocatedOf(source.disks, plan.spec.blockSize, context) : wholly(source.disks);
    const result = await copy(args, plan, allocated, context);
    if (args.verify) await compareWithSource(args, result.file, allocated, keys, context);
    const left = args.allocated === 'fs' ? { free: allocated.free, kept: allocated.kept } : {};
    const { file, read, stored, changed, zeroed } = result;
    const ms = performance.now() - begin;
    const { type } = plan.spec;
    if (context.json) {
      const seconds = Math.round(ms) / 1000;
      context.outJson({
        set: args.set,
        point: timeName(time),
        type,
        file,
        read,
        stored,
        changed,
        zeroed,
        ...left,
        seconds,
      });
      return;
    }
    const ratio = stored > 0 && changed > 0 ? ` (${((changed * plan.spec.blockSize) / stored).toFixed(1)}:1)` : '';
    const blocks = `${changed} ${changed === 1 ? 'block' : 'blocks'} changed${zeroed > 0 ? `, ${zeroed} became zero` : ''}`;
    const counts = `${formatSize(read)} read, ${type === 'full' ? '' : `${blocks}, `}${formatSize(stored)} stored${ratio}`;
    const free = args.allocated === 'fs' ? `, ${formatSize(allocated.free)} of free space left out` : '';
    context.out(
      `${args.set}@${timeName(time)}: ${type}${plan.spec.secret === null ? '' : ', encrypted'}: ${counts}${free}, ${formatDuration(ms)}`,
    );
  },
};

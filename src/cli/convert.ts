import { randomUUID } from 'node:crypto';
import fs from 'node:fs';
import { ImageError } from '../base/errors.ts';
import { type RestoreResult, restore } from '../jobs/restore.ts';
import { fileWriters } from '../registry.ts';
import { type ConvertSource, openConvertSource } from './convert-source.ts';
import { FILE_FORMATS, formatByName } from './file-format.ts';
import { type ScratchArgs, scratchOptions, verbScratch } from './scratch.ts';
import { type KeyArgs, keyOptions, keyring } from './secrets.ts';
import { openWritten, restoreTarget } from './target.ts';
import { display, formatDuration, formatSize } from './text.ts';
import type { Bar, Context, Verb } from './verb.ts';

type ConvertArgs = KeyArgs &
  ScratchArgs & {
    readonly in: string;
    readonly out: string;
    readonly format?: string;
    readonly sourceFormat?: string;
    readonly force: boolean;
    readonly readBack: boolean;
  };

type Target = ReturnType<typeof restoreTarget>;

/** As the file's name ends, unless said otherwise. A name that ends in nothing known is not taken for raw. */
function formatFor({ format, out }: ConvertArgs): string {
  if (format !== undefined) return format;
  const named = formatByName(out);
  if (named !== null) return named;
  const message = `the name does not say which format it should have`;
  throw new ImageError('usage', message, { file: out }, { hint: `--format ${FILE_FORMATS.join(' | ')}` });
}

/** A conversion over a file that it reads, its own backing file for one, would destroy what it reads. */
function refuseOwnFiles(target: Target, source: ConvertSource): void {
  const read = source.files.map(file => fs.statSync(file));
  for (const file of [target.name, target.partial]) {
    const there = fs.statSync(file, { throwIfNoEntry: false });
    if (there === undefined || !read.some(each => each.ino === there.ino && each.dev === there.dev)) continue;
    throw new ImageError('usage', 'is read for the conversion itself', { file });
  }
}

async function write(
  source: ConvertSource,
  format: string,
  target: Target,
  { readBack }: ConvertArgs,
  context: Context,
): Promise<RestoreResult> {
  const { disk } = source;
  let bar: Bar = context.progress('converting', disk.size);
  try {
    return await restore({
      disk,
      identity: source.identity ?? randomUUID(),
      format,
      target,
      readBack,
      write: format === 'raw' ? null : fileWriters[format]!,
      reopen: () => openWritten(target.partial),
      signal: context.signal,
      progress: done => bar.at(done),
      checking() {
        bar.end();
        bar = context.progress('reading back', disk.size);
      },
    });
  } catch (error) {
    if (source.identity === null) await target.discard();
    else if (fs.existsSync(target.partial)) {
      context.note(`bootmount: ${display(target.partial)} is kept: the same command continues it`);
    }
    throw error;
  } finally {
    bar.end();
  }
}

export const command: Verb = {
  name: 'convert',
  positionals: '<in> <out>',
  summary: 'Write a disk file, with what it builds on, as a disk file of another format: sparse, and read back',
  example: 'bootmount convert disk.vdi disk.qcow2',
  build: yargs =>
    keyOptions(
      scratchOptions(yargs)
        .positional('in', { type: 'string', describe: 'disk file, block device, or MNT/clones/NAME' })
        .positional('out', { type: 'string', describe: 'file to make' })
        .option('format', { choices: FILE_FORMATS, nargs: 1, describe: "default: as the file's name ends" })
        .option('source-format', {
          type: 'string',
          nargs: 1,
          describe: 'read the source as this format, never as another',
        })
        .option('force', { type: 'boolean', default: false, describe: 'overwrite the file' })
        .option('read-back', {
          type: 'boolean',
          default: true,
          describe: 'read what was written and compare; --no-read-back leaves it out',
        }),
    ),
  async run(args: ConvertArgs, context) {
    const begin = performance.now();
    const format = formatFor(args);
    using keys = keyring(args, { ask: true });
    await using scratch = verbScratch(args.in, args, context);
    const adapters = await context.adapters();
    await using source = await openConvertSource(args.in, args.sourceFormat ?? null, adapters, keys, scratch);
    const target = restoreTarget(args.out, args.force);
    refuseOwnFiles(target, source);
    for (const warning of source.warnings) context.note(`bootmount: warning: ${display(warning)}`);
    const result = await write(source, format, target, args, context);
    const { size } = source.disk;
    if (context.json) {
      context.outJson({ source: args.in, sourceFormat: source.format, file: args.out, format, size, ...result });
      return;
    }
    const resumed = result.resumedAt > 0 ? `, continued at ${formatSize(result.resumedAt)}` : '';
    const what = `${formatSize(result.written)} written for ${formatSize(size)}${resumed}`;
    const from = `${display(args.in)} (${source.format ?? 'block device'})`;
    context.out(
      `${display(args.out)}: ${from} as ${format}: ${what}, ${args.readBack ? 'read back' : 'not read back'}, ${formatDuration(performance.now() - begin)}`,
    );
  },
};

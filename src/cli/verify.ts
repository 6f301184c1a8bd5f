import type { Adapter } from '../base/contracts.ts';
import { findPoint, findSet } from '../chain/find.ts';
import type { Repository, RestorePoint } from '../chain/point.ts';
import { filesOf } from '../chain/scan.ts';
import { type VerifyResult, verify } from '../jobs/verify.ts';
import { openRepo } from './open.ts';
import { type ScratchArgs, scratchOptions } from './scratch.ts';
import { type KeyArgs, keyOptions, keyring } from './secrets.ts';
import { display, formatDuration, formatSize } from './text.ts';
import type { Bar, Context, Verb } from './verb.ts';

type VerifyArgs = KeyArgs & ScratchArgs & { readonly repo: string; readonly point?: string; readonly level?: number };

/** The named point even if it is broken: saying what is wrong with it is what this verb is for. */
function wantedPoint(repository: Repository, spec: string): RestorePoint {
  const at = spec.lastIndexOf('@');
  const set = findSet(repository, at < 0 ? spec : spec.slice(0, at));
  const name = at < 0 ? 'latest' : spec.slice(at + 1);
  const back = name === 'latest' ? 0 : /^~\d{1,9}$/.test(name) ? Number(name.slice(1)) : -1;
  const point = back >= 0 ? set.points.at(-1 - back) : set.points.find(p => p.name === name);
  // findPoint says what is there instead.
  return point ?? findPoint(repository, spec);
}

/** Each file by the format that it was identified as. */
function adaptersByFile(repository: Repository, adapters: readonly Adapter[]): (file: string) => Adapter {
  const names = new Map(repository.sets.flatMap(set => set.points).map(point => [point.file, point.adapter]));
  return file => adapters.find(adapter => adapter.name === names.get(file))!;
}

/** Files that nothing claims and that are named like backups: of the formats that are there, or of any where nothing is. */
function unreadOf(repository: Repository, adapters: readonly Adapter[]): readonly string[] {
  const there = new Set(repository.sets.flatMap(set => set.points).map(point => point.adapter));
  const named = adapters.filter(({ name }) => there.size === 0 || there.has(name)).flatMap(one => one.extensions);
  return repository.unknown.filter(file => named.some(extension => file.toLowerCase().endsWith(extension)));
}

async function fileSizes(files: AsyncIterable<{ name: string; size: number }>): Promise<ReadonlyMap<string, number>> {
  const sizes = new Map<string, number>();
  for await (const { name, size } of files) sizes.set(name, size);
  return sizes;
}

function tell(result: VerifyResult, level: number, ms: number, context: Context): void {
  const { checked, bytes, problems, omitted, locked } = result;
  if (locked.length > 0) {
    const them = locked.length === 1 ? '1 point is' : `${locked.length} points are`;
    context.note(`bootmount: ${them} encrypted: without the key only structure and checksums were checked`);
  }
  const count = problems.length + omitted;
  if (context.json) {
    const list = problems.map(({ set, point, disk, block, file, offset, fault, message }) => ({
      set,
      point,
      ...(disk === undefined ? {} : { disk }),
      ...(block === undefined ? {} : { block }),
      file,
      offset,
      fault,
      message,
    }));
    context.outJson({ checked, bytes, problems: list, ...(omitted > 0 ? { omitted } : {}) });
    return;
  }
  const found = count === 0 ? 'no problems' : count === 1 ? '1 problem' : `${count} problems`;
  context.out(`${found}; ${checked} units, ${formatSize(bytes)} checked at level ${level} in ${formatDuration(ms)}`);
}

export const command: Verb = {
  name: 'verify',
  positionals: '<repo> [point]',
  summary: 'Check every layer: structure and checksums, and with the key every block',
  example: 'bootmount verify /srv/backups web01@latest --key-file web01.key',
  build: yargs =>
    keyOptions(
      scratchOptions(yargs)
        .positional('repo', { type: 'string', describe: 'folder of backups, or one backup file' })
        .positional('point', { type: 'string', describe: 'only this restore point, with all it is read from' })
        .option('level', {
          type: 'number',
          choices: [1, 2, 3],
          nargs: 1,
          describe: '1 checksums, 2 structure too, 3 every block of every chain too (default)',
        }),
    ),
  async run(args: VerifyArgs, context) {
    const begin = performance.now();
    using keys = keyring(args, { ask: args.level === 3 });
    await using opened = await openRepo(args.repo, keys, context, args);
    const { repository, store, scratch } = opened;
    const only = args.point === undefined ? null : wantedPoint(repository, args.point);
    const sizes = await fileSizes(filesOf(store, await context.adapters()));
    const level = (args.level ?? 3) as 1 | 2 | 3;
    const adapterOf = adaptersByFile(repository, await context.adapters());
    let bar: Bar = context.progress('', 0);
    let barTotal = -1;
    try {
      const result = await verify({
        repository,
        unread: only === null ? unreadOf(repository, await context.adapters()) : [],
        wanted: point => only === null || point === only,
        level,
        openImage: file => adapterOf(file).open(file, store, keys, scratch),
        fileSize: file => sizes.get(file) ?? 0,
        found: ({ set, point, disk, file, offset, fault, message }) => {
          if (context.json) return;
          const where = `${file}${offset > 0 ? ` at ${offset}` : ''}`;
          const whose = set === '' ? '' : `${set}@${point}${disk === undefined ? '' : ` ${disk}`}: `;
          context.out(display(`${whose}${fault}: ${message} (${where})`));
        },
        signal: context.signal,
        progress(done, total) {
          if (total !== barTotal) {
            // Files first, then chains.
            bar.end();
            bar = context.progress('checking', total);
            barTotal = total;
          }
          bar.at(done);
        },
      });
      bar.end();
      tell(result, level, performance.now() - begin, context);
      if (result.problems.length > 0) context.exitCode(5);
    } finally {
      bar.end();
    }
  },
};

/** Everything behind a mount, from the repository to the tree; whichever transport serves it. */
import path from 'node:path';
import type { DirNode, Keyring } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { UnitCache } from '../chain/cache.ts';
import { findPoint } from '../chain/find.ts';
import type { Repository } from '../chain/point.ts';
import { openRepository } from '../chain/repository.ts';
import { diskFormats } from '../registry.ts';
import { openStore } from '../stores/open.ts';
import { localScratch } from '../stores/scratch.ts';
import { backupsFolder } from '../tree/backups.ts';
import { type CloneRecord, Clones } from '../tree/clones.ts';
import { folder } from '../tree/nodes.ts';
import { loadAdapters } from './adapters.ts';
import type { CloneRequest, Prepared, ServeConfig, WorkerStatus } from './protocol.ts';

export interface Stack extends AsyncDisposable {
  readonly root: DirNode;
  readonly clones: Clones;
  readonly summary: Prepared;
  makeClone(request: CloneRequest): Promise<CloneRecord>;
  /** Something is decoded that nobody waits for yet: the event loop must turn. */
  working(): boolean;
  /** From now on nothing is decoded that nobody asked for. */
  endReadAhead(): void;
  status(): Omit<WorkerStatus, 'survives'>;
}

/** What a user who mounts would want to be told, or refused for. */
function judge(repository: Repository, withKey: boolean): Prepared {
  const points = repository.sets.flatMap(set => set.points);
  const locked = points.filter(p => p.state === 'locked');
  const readable = points.filter(p => p.state === 'ok');
  const wrong = locked.find(p => p.problem?.fault === 'wrong-key');
  // A key that fits one set of several is no wrong one: the others are listed as locked.
  if (wrong !== undefined && readable.length === 0) throw wrong.problem!;
  if (points.length === 0) {
    throw new ImageError('not-found', 'there is no backup that any adapter knows', { file: repository.label });
  }
  if (readable.length === 0) {
    const first = locked[0] ?? points[0]!;
    if (locked.length > 0 && !withKey) {
      throw new ImageError(
        'locked',
        'every backup here is encrypted',
        { file: repository.label },
        { hint: 'give the key with --key-file FILE' },
      );
    }
    throw first.problem!;
  }
  const warnings = [...repository.warnings];
  for (const p of points) {
    if (p.problem !== null) warnings.push(`${p.set}@${p.name} is ${p.state}: ${p.problem.message}`);
  }
  return { sets: repository.sets.length, points: readable.length, warnings };
}

const bytesOf = (base64: string): Uint8Array => new Uint8Array(Buffer.from(base64, 'base64'));

export async function openStack(config: ServeConfig): Promise<Stack> {
  const secrets = config.secrets.map(bytesOf);
  const keys: Keyring = { secrets: async () => secrets };
  const cache = new UnitCache(config.cache);
  const store = await openStore(config.repo);
  const scratch = localScratch({
    ...config.scratch,
    keep: true,
    hint: 'more room: mount with --scratch DIR, or a higher --scratch-size SIZE',
  });
  const repository = await openRepository(store, await loadAdapters(config.adapters), keys, { cache, scratch });
  try {
    const judged = judge(repository, secrets.length > 0);
    const clones = await Clones.open({ folder: path.join(config.state, 'clones'), repository, formats: diskFormats });
    const makeClone = (request: CloneRequest): Promise<CloneRecord> =>
      clones.create(request.name, findPoint(repository, request.point), request.format);
    for (const request of config.clones) await makeClone(request);
    const refused = clones.list().filter(clone => clone.state === 'refused');
    const entries = new Map<string, DirNode>([
      ['backups', backupsFolder(repository, diskFormats, config.volumeSecrets.map(bytesOf))],
      ['clones', clones.root()],
    ]);
    return {
      root: folder(new Date(), () => entries),
      clones,
      summary: {
        ...judged,
        warnings: [...judged.warnings, ...refused.map(c => `clone ${c.name} is not served: ${c.reason}`)],
      },
      makeClone,
      working: () => cache.ahead > 0 || scratch.working(),
      endReadAhead() {
        cache.readsAhead = false;
      },
      status: () => ({
        clones: clones.list(),
        cache: { held: cache.held, budget: cache.budget, hits: cache.hits, misses: cache.misses },
        unpacking: scratch.running(),
        rss: process.memoryUsage.rss(),
      }),
      async [Symbol.asyncDispose]() {
        try {
          await clones.close();
        } finally {
          await repository[Symbol.asyncDispose]();
          await store[Symbol.asyncDispose]();
        }
      },
    };
  } catch (error) {
    await repository[Symbol.asyncDispose]();
    await store[Symbol.asyncDispose]();
    throw error;
  }
}

import { type ChildProcess, spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Argv } from 'yargs';
import { ImageError } from '../base/errors.ts';
import { mountpoint as checkMountpoint, mountsOf } from '../host/fuse/mount.ts';
import { diskFormats } from '../registry.ts';
import { askControl } from '../server/control.ts';
import { guardMountpoint, isGuarded, releaseMountpoint } from '../server/guard.ts';
import { mountpointPath, runPaths, stateFolder } from '../server/paths.ts';
import {
  type CloneRequest,
  fromWire,
  type MountConfig,
  type MountStatus,
  type Prepared,
  type WireError,
} from '../server/protocol.ts';
import { baseOf } from './clone.ts';
import { type ScratchArgs, scratchLimit, scratchOptions } from './scratch.ts';
import { type KeyArgs, keyOptions, keyring, type VolumeKeyArgs, volumeKeyOption, volumeSecrets } from './secrets.ts';
import { display, formatSize, parseSize, table } from './text.ts';
import type { Context, Verb } from './verb.ts';

const FORMATS: readonly string[] = diskFormats.map(({ name }) => name);

type MountArgs = KeyArgs &
  VolumeKeyArgs &
  ScratchArgs & {
    readonly repo?: string;
    readonly mountpoint?: string;
    readonly status?: boolean;
    readonly foreground: boolean;
    readonly state?: string;
    readonly allowOther: boolean;
    readonly cache: string;
    readonly clone?: readonly string[];
    readonly o?: readonly string[];
    readonly transport: 'fuse' | 'fuse-native';
  };

/** `POINT:NAME[:FORMAT]`. */
function parseClone(text: string): CloneRequest {
  const parts = text.split(':');
  const last = parts.at(-1)!;
  const format = parts.length > 2 && FORMATS.includes(last) ? parts.pop()! : 'raw';
  const name = parts.pop();
  const point = parts.join(':');
  if (name === undefined || name === '' || point === '') {
    throw new ImageError('usage', `${JSON.stringify(text)} is not POINT:NAME or POINT:NAME:FORMAT`, {
      field: '--clone',
    });
  }
  return { point, name, format };
}

/** Options of mount(8) and fstab: the kernel's go on to mount, ours have flags, the rest of fstab's words mean nothing here. */
function mountOptions(given: readonly string[]): {
  readonly allowOther: boolean;
  readonly kernel: readonly string[];
  readonly named: ReadonlyMap<string, string>;
} {
  const silent = new Set([
    'rw',
    'ro',
    'auto',
    'noauto',
    'user',
    'nouser',
    'users',
    'defaults',
    '_netdev',
    'nofail',
    'nosuid',
    'nodev',
    'noexec',
    'dev',
    'suid',
    'exec',
  ]);
  const kernel = new Set(['noatime', 'relatime', 'nodiratime', 'sync', 'dirsync']);
  const named = new Map<string, string>();
  const pass: string[] = [];
  let allowOther = false;
  for (const option of given.flatMap(o => o.split(',')).filter(o => o !== '')) {
    const [key, value] = [option.split('=')[0]!, option.includes('=') ? option.slice(option.indexOf('=') + 1) : ''];
    if (key === 'allow_other') allowOther = true;
    else if (
      [
        'state',
        'scratch',
        'scratch-size',
        'cache',
        'key-file',
        'volume-key-file',
        'clone',
        'transport',
        'adapter',
      ].includes(key) &&
      value !== ''
    )
      named.set(key, value);
    else if (kernel.has(key)) pass.push(option);
    else if (!silent.has(key) && !key.startsWith('x-') && !key.startsWith('comment')) {
      throw new ImageError('usage', `the mount option ${JSON.stringify(option)} is not known`, { field: '-o' });
    }
  }
  return { allowOther, kernel: pass, named };
}

const serverFile = (transport: MountArgs['transport']): string =>
  fileURLToPath(new URL(transport === 'fuse' ? '../server/supervisor.ts' : '../server/portable.ts', import.meta.url));

interface Started {
  readonly child: ChildProcess;
  readonly prepared: Prepared;
}

/** Starts the serving process and waits until the tree can be read, or throws what it says. */
function startServer(config: MountConfig, foreground: boolean, signal: AbortSignal): Promise<Started> {
  const run = runPaths(config.mountpoint);
  fs.mkdirSync(run.folder, { recursive: true, mode: 0o700 });
  const log = foreground ? ('inherit' as const) : fs.openSync(run.log, 'a', 0o600);
  const child = spawn(process.execPath, ['--disable-sigusr1', serverFile(config.transport)], {
    stdio: ['ignore', log, log, 'ipc'],
    detached: !foreground,
    cwd: '/',
  });
  if (typeof log === 'number') fs.closeSync(log);
  return new Promise((resolve, reject) => {
    const stop = (): void => void child.kill('SIGTERM');
    signal.addEventListener('abort', stop, { once: true });
    child.once('error', reject);
    child.once('exit', code =>
      reject(new ImageError('io', `the serving process ended at once (exit ${code})`, { file: run.log })),
    );
    child.once('message', (message: { value?: Prepared; error?: WireError }) => {
      signal.removeEventListener('abort', stop);
      if (message.error !== undefined) reject(fromWire(message.error));
      else resolve({ child, prepared: message.value! });
    });
    child.send(config);
  });
}

async function start(config: MountConfig, args: MountArgs, context: Context): Promise<Started> {
  const secrets = async (ask: boolean): Promise<readonly string[]> => {
    using keys = keyring(args, { ask });
    return (await keys.secrets()).map(secret => Buffer.from(secret).toString('base64'));
  };
  const given = await secrets(false);
  try {
    return await startServer({ ...config, secrets: given }, args.foreground, context.signal);
  } catch (error) {
    if (!(error instanceof ImageError) || error.fault !== 'locked' || given.length > 0) throw error;
    const typed = await secrets(true);
    if (typed.length === 0) throw error;
    return startServer({ ...config, secrets: typed }, args.foreground, context.signal);
  }
}

function configOf(args: MountArgs, repo: string, mountpoint: string): MountConfig {
  const options = mountOptions(args.o ?? []);
  const { named } = options;
  const real = /^[a-z][a-z0-9+.-]+:\/\//i.test(repo) ? repo : path.resolve(repo);
  const cloneTexts = [...(args.clone ?? []), ...(named.get('clone')?.split(';') ?? [])];
  const transport = (named.get('transport') ?? args.transport) as MountArgs['transport'];
  const state = path.resolve(args.state ?? named.get('state') ?? stateFolder(real));
  const scratch = args.scratch ?? named.get('scratch') ?? path.join(state, 'unpacked');
  return {
    repo: real,
    mountpoint,
    state,
    scratch: {
      folder: path.resolve(scratch),
      most: scratchLimit({ scratchSize: args.scratchSize ?? named.get('scratch-size') }),
    },
    nodes: runPaths(mountpoint).nodes,
    cache: parseSize(named.get('cache') ?? args.cache, '--cache'),
    secrets: [],
    volumeSecrets: volumeSecrets({
      volumeKeyFile: [...(args.volumeKeyFile ?? []), ...(named.get('volume-key-file')?.split(';') ?? [])],
    }).map(secret => Buffer.from(secret).toString('base64')),
    adapters: [...(args.adapter ?? []), ...(named.get('adapter')?.split(';') ?? [])].map(file => path.resolve(file)),
    clones: cloneTexts.map(parseClone),
    transport,
    allowOther: args.allowOther || options.allowOther,
    options: options.kernel,
  };
}

function refuseOwnMount(repo: string): void {
  for (const { at } of mountsOf()) {
    if (repo === at || repo.startsWith(`${at}/`)) {
      throw new ImageError('usage', `the repository lies on a mount of bootmount itself (${at})`, { file: repo });
    }
  }
}

async function showStatus(mountpoint: string, context: Context): Promise<void> {
  const at = mountpointPath(mountpoint);
  const status = (await askControl(runPaths(at).socket, { verb: 'status' }, mountpoint)) as MountStatus;
  if (context.json) {
    context.outJson(status);
    return;
  }
  const { supervisor, worker, clones, cache } = status;
  context.out(`${status.mount} shows ${status.repo}, state in ${status.state}`);
  context.out(`supervisor ${supervisor.pid}, worker ${worker.pid}, ${worker.restarts} restarts`);
  context.out(
    `cache ${formatSize(cache.held)} of ${formatSize(cache.budget)}, ${cache.hits} hits, ${cache.misses} misses`,
  );
  for (const { name, done, total } of status.unpacking) {
    context.out(display(`unpacking ${name}: ${formatSize(done)} of ${formatSize(total)}`));
  }
  if (clones.length === 0) return;
  const columns = [{ title: 'CLONE' }, { title: 'OF' }, { title: 'FORMAT' }, { title: 'STATE' }];
  context.out(
    table(
      columns,
      clones.map(c => [c.name, baseOf(c), c.format ?? '-', c.reason ?? c.state]),
    ),
  );
}

const counted = (n: number, what: string): string => `${n} ${what}${n === 1 ? '' : 's'}`;

export const command: Verb = {
  name: 'mount',
  positionals: '[repo] [mountpoint]',
  summary: 'Show every restore point of a repository as disk files',
  example: 'bootmount mount /backups /mnt/backups --key-file key.txt --clone web01@latest:test:qcow2',
  build: (yargs: Argv) =>
    volumeKeyOption(keyOptions(scratchOptions(yargs)))
      .positional('repo', { type: 'string', describe: 'directory of backups, or a single backup file' })
      .positional('mountpoint', { type: 'string', describe: 'empty directory' })
      .option('foreground', { alias: 'f', type: 'boolean', default: false, describe: 'stay until unmounted' })
      .option('state', { type: 'string', nargs: 1, describe: 'folder for the overlays of clones' })
      .option('allow-other', { type: 'boolean', default: false, describe: 'let other users in' })
      .option('cache', { type: 'string', nargs: 1, default: '64M', describe: 'memory for decoded blocks' })
      .option('clone', { type: 'string', array: true, nargs: 1, describe: 'POINT:NAME[:FORMAT], a writable clone' })
      .option('o', { type: 'string', array: true, nargs: 1, describe: 'options of mount(8) and fstab' })
      .option('transport', {
        choices: ['fuse', 'fuse-native'] as const,
        default: 'fuse',
        describe: 'how the kernel is spoken to',
      })
      .option('status', { type: 'boolean', default: false, describe: 'tell about an existing mount' }),
  async run(raw, context) {
    const args = raw as unknown as MountArgs;
    if (args.status) {
      const target = args.mountpoint ?? args.repo;
      if (target === undefined)
        throw new ImageError('usage', 'which mountpoint?', {}, { hint: 'bootmount mount --status MNT' });
      return showStatus(target, context);
    }
    if (args.repo === undefined || args.mountpoint === undefined) {
      throw new ImageError(
        'usage',
        'a repository and a mountpoint are needed',
        {},
        { hint: 'bootmount mount REPO MNT' },
      );
    }
    const mountpoint = checkMountpoint(args.mountpoint);
    const config = configOf(args, args.repo, mountpoint);
    refuseOwnMount(config.repo);
    const guarded = isGuarded(mountpoint) || !guardMountpoint(mountpoint);
    const keyFile = mountOptions(args.o ?? []).named.get('key-file');
    const keyed = keyFile === undefined ? args : { ...args, keyFile: [...(args.keyFile ?? []), keyFile] };
    const { child, prepared } = await start(config, keyed, context).catch(error => {
      if (!guarded) releaseMountpoint(mountpoint);
      throw error;
    });
    for (const warning of prepared.warnings) context.note(`bootmount: ${warning}`);
    if (context.json) context.outJson({ mount: mountpoint, repo: config.repo, ...prepared });
    else
      context.note(
        `${counted(prepared.points, 'restore point')} of ${counted(prepared.sets, 'set')} at ${args.mountpoint}`,
      );
    if (!args.foreground) {
      child.unref();
      return;
    }
    await new Promise<void>(resolve =>
      child.once('exit', code => {
        if (code !== 0) context.exitCode(code ?? 1);
        resolve();
      }),
    );
  },
};

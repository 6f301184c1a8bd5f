/**
 * `npm run bench:backup`: backups, incrementals and restores of a half-empty disk beside qemu-img and restic, in interleaved
 * rounds; medians and ratios go to test/bench/RESULTS-backup.md. Needs qemu-img, restic and three times the disk's space.
 *
 *   npm run bench:backup -- [--gib 10] [--rounds 3] [--folder /tmp] [--disks /tmp/disks]
 *
 * `--disks`: where the disk and its changed copy are, or are made and stay.
 */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { changeDisk, makeHalfEmptyDisk } from './half-empty.ts';

const RESULTS = fileURLToPath(new URL('./RESULTS-backup.md', import.meta.url));
const PROGRAM = fileURLToPath(new URL('../../src/cli/bootmount.js', import.meta.url));
const GIB = 2 ** 30;

const { values } = parseArgs({
  options: {
    gib: { type: 'string', default: '10' },
    rounds: { type: 'string', default: '3' },
    folder: { type: 'string', default: os.tmpdir() },
    disks: { type: 'string' },
  },
});
const size = Number(values.gib) * GIB;
const rounds = Number(values.rounds);
const folder = fs.mkdtempSync(path.join(values.folder, 'bootmount-bench-'));
const at = (name: string): string => path.join(folder, name);
const disks = path.resolve(values.disks ?? folder);
const [disk, changed] = ['disk', 'changed'].map(name => path.join(disks, `${name}-${values.gib}.raw`)) as [
  string,
  string,
];
const env = { ...process.env, RESTIC_PASSWORD: 'bench', RESTIC_REPOSITORY: at('restic') };

interface Cost {
  readonly wall: number;
  /** Of all processors together. */
  readonly cpu: number;
}

/** Seconds that a command and a `sync` after it take. What earlier ones left to write is written before. */
function measure(command: readonly string[]): Cost {
  execFileSync('sync');
  const timed = 'TIMEFORMAT="%R %U %S"; time { "$@" >/dev/null 2>"$0" </dev/null && sync; }';
  const [log, out] = [
    at('log'),
    execFileSync('bash', ['-c', `{ ${timed} || { cat "$0"; exit 1; }; } 2>&1`, at('log'), ...command], {
      env,
      encoding: 'utf8',
    }),
  ];
  const [wall, user, sys] = out.trim().split('\n').at(-1)!.split(' ').map(Number);
  fs.rmSync(log, { force: true });
  return { wall: wall!, cpu: user! + sys! };
}

const bootmount = (...args: string[]): string[] => [process.execPath, PROGRAM, ...args];
const qemu = (...args: string[]): string[] => ['qemu-img', 'convert', ...args];
const restic = (...args: string[]): string[] => ['restic', '--no-cache', ...args];

interface Peer {
  readonly name: string;
  readonly ours: boolean;
  readonly full: readonly string[];
  /** The same disk with one block in a hundred changed; null: it cannot tell what changed. */
  readonly incremental: readonly string[] | null;
  /** Into the file `out`. */
  readonly restore: readonly string[];
  /** What its backup rests in. */
  readonly rest: string;
}

function ours(name: string, repo: string, ...options: string[]): Peer {
  const key = options.length === 0 ? [] : ['--key-file', at('key')];
  return {
    name,
    ours: true,
    full: bootmount('backup', disk, at(repo), '--set', 'bench', ...options, ...key),
    incremental: bootmount('backup', changed, at(repo), '--set', 'bench', ...key),
    restore: bootmount('restore', 'bench@~0', at('out'), '--repo', at(repo), ...key),
    rest: repo,
  };
}

const zstd = ['-c', '-f', 'raw', '-O', 'qcow2', '-o', 'compression_type=zstd'];
const peers: readonly Peer[] = [
  ours('bootmount', 'plain'),
  ours('bootmount, encrypted', 'encrypted', '--encrypt'),
  {
    name: 'qemu-img convert -c, zstd',
    ours: false,
    full: qemu(...zstd, disk, at('a.qcow2')),
    incremental: null,
    restore: qemu('-f', 'qcow2', '-O', 'raw', at('a.qcow2'), at('out')),
    rest: 'a.qcow2',
  },
  {
    name: 'the same with -W -m 16',
    ours: false,
    full: qemu('-W', '-m', '16', ...zstd, disk, at('b.qcow2')),
    incremental: null,
    restore: qemu('-W', '-m', '16', '-f', 'qcow2', '-O', 'raw', at('b.qcow2'), at('out')),
    rest: 'b.qcow2',
  },
  {
    name: 'restic',
    ours: false,
    full: restic('backup', disk),
    incremental: restic('backup', changed),
    restore: restic('restore', 'latest', '--target', at('out')),
    rest: 'restic',
  },
];

const JOBS = ['full', 'incremental', 'restore'] as const;
type Figures = Map<string, Map<string, Cost[]>>;

function sizeOf(file: string): number {
  const stat = fs.statSync(file);
  if (!stat.isDirectory()) return stat.blocks * 512;
  return fs.readdirSync(file).reduce((sum, name) => sum + sizeOf(path.join(file, name)), 0);
}

function round(figures: Figures, stored: Map<string, number>): void {
  for (const peer of peers) {
    fs.rmSync(at(peer.rest), { recursive: true, force: true });
    if (peer.name === 'restic') execFileSync('restic', ['init', '--quiet'], { env });
    for (const job of JOBS) {
      const command = peer[job];
      if (command === null) continue;
      const cost = measure(command);
      figures.get(peer.name)!.get(job)!.push(cost);
      if (job === 'full') stored.set(peer.name, sizeOf(at(peer.rest)));
      process.stderr.write(`${peer.name}: ${job} ${cost.wall.toFixed(1)} s, ${cost.cpu.toFixed(1)} s of CPU\n`);
    }
    checkRestored(peer);
    fs.rmSync(at('out'), { recursive: true, force: true });
    fs.rmSync(at(peer.rest), { recursive: true, force: true });
  }
}

/** A restore that is quick and wrong would win. */
function checkRestored(peer: Peer): void {
  const out = fs.statSync(at('out')).isDirectory() ? path.join(at('out'), changed) : at('out');
  execFileSync('cmp', [out, peer.incremental === null ? disk : changed]);
}

const middle = (numbers: readonly number[]): number =>
  [...numbers].sort((a, b) => a - b)[numbers.length >> 1] ?? Number.NaN;

function table(figures: Figures, stored: Map<string, number>): string {
  const cost = (peer: string, job: string, what: keyof Cost): number =>
    middle(
      figures
        .get(peer)!
        .get(job)!
        .map(one => one[what]),
    );
  const show = (n: number): string => (Number.isNaN(n) ? '–' : n.toFixed(1));
  const head = `| | ${JOBS.map(job => `${job} (s)`).join(' | ')} | ${JOBS.map(job => `${job} (CPU s)`).join(' | ')} | stored (GiB) |`;
  const rows = peers.map(({ name }) => {
    const cells = (['wall', 'cpu'] as const).flatMap(what => JOBS.map(job => show(cost(name, job, what))));
    return `| ${name} | ${cells.join(' | ')} | ${(stored.get(name)! / GIB).toFixed(2)} |`;
  });
  const best = (job: string, what: keyof Cost): number =>
    Math.min(
      ...peers
        .filter(peer => !peer.ours)
        .map(peer => cost(peer.name, job, what))
        .filter(n => !Number.isNaN(n)),
    );
  const ratios = peers
    .filter(peer => peer.ours)
    .map(({ name }) => {
      const cells = (['wall', 'cpu'] as const).flatMap(what =>
        JOBS.map(job => `**${(best(job, what) / cost(name, job, what)).toFixed(2)}**`),
      );
      return `| **best peer / ${name}** | ${cells.join(' | ')} | |`;
    });
  return [head, `|${'---|'.repeat(JOBS.length * 2 + 2)}`, ...rows, ...ratios].join('\n');
}

const version = (program: string, ...args: string[]): string =>
  execFileSync(program, args, { encoding: 'utf8' }).split('\n')[0]!.trim();

try {
  fs.writeFileSync(at('key'), 'a key for the benchmark', { mode: 0o600 });
  if (!fs.existsSync(disk) || !fs.existsSync(changed)) {
    makeHalfEmptyDisk(disk, size);
    execFileSync('cp', ['--sparse=always', disk, changed]);
    changeDisk(changed, size, 0.01);
  }
  const figures: Figures = new Map(peers.map(({ name }) => [name, new Map(JOBS.map(job => [job, []]))]));
  const stored = new Map<string, number>();
  const load: number[] = [];
  for (let n = 0; n < rounds; n++) {
    round(figures, stored);
    load.push(os.loadavg()[2]!);
  }
  const about = [
    `Linux ${os.release()}, ${os.cpus().length} × ${os.cpus()[0]?.model.trim()}, Node ${process.versions.node}; load of the last 15 minutes at the end of each round: ${load.map(n => n.toFixed(1)).join(', ')}`,
    `${version('qemu-img', '--version')}; ${version('restic', 'version')}`,
    `A raw disk of ${values.gib} GiB, half of it holes; 64 KiB blocks, zstd level 3; ${rounds === 1 ? 'one round' : `medians of ${rounds} interleaved rounds`}. The disk is in the page cache as far as memory goes. Each time includes a sync at the end; bootmount makes durable by itself. restic always encrypts, qemu-img never does. Incremental: 1 % of the blocks changed; found by comparing, since nothing tracks them. Restore: to a raw file; bootmount reads back from the device what it wrote, the others do not, and restic writes zeros in full.`,
  ];
  fs.writeFileSync(
    RESULTS,
    `# Backup benchmark results\n\nMade by \`npm run bench:backup\` on ${new Date().toISOString().slice(0, 10)}.\n\n${about.map(line => `- ${line}`).join('\n')}\n\n${table(figures, stored)}\n`,
  );
  process.stdout.write(fs.readFileSync(RESULTS, 'utf8'));
} finally {
  fs.rmSync(folder, { recursive: true, force: true });
}

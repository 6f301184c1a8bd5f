/**
 * `npm run bench:files [-- --folder DIR] [--rounds N] [--mib N]`: single files of 1 TiB volumes through the mount, beside
 * ntfs-3g, fuse2fs and guestmount on the same images. Every figure is the median of several fresh mounts, ours and theirs in
 * turns; medians and ratios go to test/bench/RESULTS-files.md. Needs root and FUSE; a peer that is not installed is left out.
 * guestmount needs a kernel it can boot: linux-image-cloud-amd64 is enough.
 */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { chooseAccelerator } from '../../src/jobs/accelerator.ts';
import { runCli } from '../e2e/run-cli.ts';
import { lacking, noise, tool } from '../kit/volume-images.ts';
import { imageDisk, volumesOf } from '../kit/volume-walk.ts';

const { values } = parseArgs({
  options: {
    folder: { type: 'string', default: os.tmpdir() },
    rounds: { type: 'string', default: '3' },
    mib: { type: 'string', default: '1024' },
  },
});
const RESULTS = fileURLToPath(new URL('./RESULTS-files.md', import.meta.url));
const MIB = 2 ** 20;
const TIB = 2 ** 40;
const FILES = 10_000;
const LARGE = Number(values.mib);
const folder = fs.mkdtempSync(path.join(values.folder, 'bootmount-bench-files-'));
const repo = path.join(folder, 'repo');
const mnt = path.join(folder, 'mnt');
const peer = path.join(folder, 'peer');

interface Subject {
  readonly name: string;
  readonly make: readonly string[];
  /** How the image is mounted to be filled. */
  readonly fill: readonly string[];
  readonly peers: readonly Peer[];
}

interface Peer {
  readonly name: string;
  /** What mounts an image at a folder, and what ends it. */
  mount(image: string, at: string): readonly string[];
  readonly end: readonly string[];
}

const guestmount: Peer = {
  name: 'guestmount',
  mount: (image, at) => ['guestmount', '-a', image, '-m', '/dev/sda', '--ro', at],
  end: ['guestunmount'],
};
const fuse = (name: string): Peer => ({
  name,
  mount: (image, at) => [name, '-o', 'ro', image, at],
  end: ['umount'],
});

const subjects: readonly Subject[] = [
  {
    name: 'ntfs',
    make: ['mkntfs', '-F', '-Q', '-q'],
    fill: ['ntfs-3g'],
    peers: [fuse('ntfs-3g'), guestmount],
  },
  {
    name: 'ext4',
    make: ['mke2fs', '-q', '-F', '-t', 'ext4', '-E', 'lazy_itable_init=1', '-N', '200000'],
    fill: ['mount', '-o', 'loop'],
    peers: [fuse('fuse2fs'), guestmount],
  },
];

const imageOf = ({ name }: Subject): string => path.join(repo, `${name}.raw`);

function prepare(subject: Subject): void {
  const image = imageOf(subject);
  fs.writeFileSync(image, '');
  fs.truncateSync(image, TIB);
  tool(subject.make[0]!, [...subject.make.slice(1), image]);
  tool(subject.fill[0]!, [...subject.fill.slice(1), image, peer]);
  fs.mkdirSync(path.join(peer, 'many'));
  for (let i = 0; i < FILES; i++) fs.writeFileSync(path.join(peer, 'many', `file number ${i}.txt`), `${i}`);
  const part = noise(MIB, 1);
  const fd = fs.openSync(path.join(peer, 'large'), 'w');
  for (let i = 0; i < LARGE; i++) fs.writeSync(fd, part);
  fs.closeSync(fd);
  tool('umount', [peer]);
}

const ms = (work: () => void): number => {
  const begin = performance.now();
  work();
  return performance.now() - begin;
};

/** MB/s of reading a file in order, in parts of 1 MiB. */
function speed(file: string, at = 0): number {
  const into = Buffer.alloc(MIB);
  const fd = fs.openSync(file, 'r');
  const took = ms(() => {
    for (let i = 0; i < LARGE; i++) fs.readSync(fd, into, 0, MIB, at + i * MIB);
  });
  fs.closeSync(fd);
  return (LARGE * MIB) / took / 1000;
}

interface Figures {
  readonly 'first listing of the root, ms': number;
  readonly 'folder of 10,000, ms': number;
  readonly 'with a stat of each, ms': number;
  readonly 'one name in it, ms': number;
  readonly 'reading a file in order, MB/s': number;
}

function measure(root: string, one: string): Figures {
  const many = path.join(root, 'many');
  const first = ms(() => fs.readdirSync(root));
  const name = ms(() => fs.statSync(path.join(many, one)));
  let names: readonly string[] = [];
  const list = ms(() => {
    names = fs.readdirSync(many);
  });
  if (names.length !== FILES) throw new Error(`${names.length} names in ${many}`);
  const stats = ms(() => {
    for (const its of names) fs.statSync(path.join(many, its));
  });
  return {
    'first listing of the root, ms': first,
    'folder of 10,000, ms': list,
    'with a stat of each, ms': stats,
    'one name in it, ms': name,
    'reading a file in order, MB/s': speed(path.join(root, 'large')),
  };
}

/** The most that the worker and the parser of this mount have had in memory, MiB. */
function memory(worker: number): Memory {
  const peakOf = (pid: string): number => {
    const status = fs.readFileSync(`/proc/${pid}/status`, 'latin1');
    return Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024;
  };
  const children = fs.readFileSync(`/proc/${worker}/task/${worker}/children`, 'latin1').trim().split(' ');
  const parser = children.find(pid => fs.readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes('src/files/child'));
  return { worker: peakOf(String(worker)), parser: parser === undefined ? 0 : peakOf(parser) };
}

async function workerOf(at: string): Promise<number> {
  const { stdout } = await runCli(['mount', '--status', at]);
  return Number(/worker (\d+)/.exec(stdout)?.[1]);
}

const median = (numbers: readonly number[]): number => numbers.toSorted((a, b) => a - b)[numbers.length >> 1]!;

/** Where the large file begins on the disk: the view is read there too, where there is as much data. */
async function placeOf(subject: Subject): Promise<number> {
  await using disk = await imageDisk(imageOf(subject));
  const { root } = (await volumesOf(disk)).volumes[0]!.volume;
  const node = await (await root.list()).find(({ name }) => name === 'large')!.node();
  if (node.kind !== 'file') throw new Error('large is no file');
  const first = (await node.open()).range(0, 1);
  if (first.kind !== 'disk') throw new Error('large is not stored plainly');
  return first.at;
}

interface Memory {
  readonly worker: number;
  readonly parser: number;
}

interface Round {
  readonly ours: Figures;
  readonly theirs: ReadonlyMap<string, Figures | null>;
  readonly raw: number;
  readonly memory: Memory;
}

function measurePeer(subject: Subject, { name, mount, end }: Peer): Figures | null {
  const command = mount(imageOf(subject), peer);
  let mounting = 0;
  try {
    mounting = ms(() => {
      tool(command[0]!, command.slice(1));
      fs.readdirSync(peer);
    });
  } catch (error) {
    process.stderr.write(`${name} does not mount here: ${String(error).split('\n')[1] ?? ''}\n`);
    return null;
  }
  const figures = { ...measure(peer, 'file number 777.txt'), 'first listing of the root, ms': mounting };
  tool(end[0]!, [...end.slice(1), peer]);
  return figures;
}

const there = ({ name }: Peer): boolean => lacking(name) === '';

async function round(subject: Subject): Promise<Round> {
  const { code, stderr } = await runCli(['mount', repo, mnt]);
  if (code !== 0) throw new Error(stderr);
  try {
    const point = path.join(mnt, 'backups', subject.name);
    const latest = path.join(point, 'latest');
    // The point's folder is known; what is inside the disk is not.
    const disk = path.join(latest, fs.readdirSync(latest).find(name => name.endsWith('.raw'))!);
    const files = path.join(latest, 'files');
    let volume = '';
    const opening = ms(() => {
      volume = path.join(files, fs.readdirSync(files).find(name => name.startsWith('p0-'))!);
    });
    const figures = measure(volume, 'file number 777.txt');
    const first = 'first listing of the root, ms';
    const ours = { ...figures, [first]: figures[first] + opening };
    const raw = speed(disk, await placeOf(subject));
    const used = memory(await workerOf(mnt));
    const theirs = new Map(subject.peers.filter(there).map(its => [its.name, measurePeer(subject, its)]));
    return { ours, theirs, raw, memory: used };
  } finally {
    await runCli(['umount', mnt]);
  }
}

const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |\n`;

function table(subject: Subject, rounds: readonly Round[]): string {
  const peers = subject.peers.filter(there).map(({ name }) => name);
  const ratios = peers.map(name => `${name} / bootmount`);
  let text = line([`${subject.name}, 1 TiB`, 'bootmount', ...peers, ...ratios]);
  text += `|${'---|'.repeat(2 + 2 * peers.length)}\n`;
  for (const key of Object.keys(rounds[0]!.ours) as (keyof Figures)[]) {
    const ours = median(rounds.map(r => r.ours[key]));
    const theirs = peers.map(name => median(rounds.map(r => r.theirs.get(name)?.[key] ?? Number.NaN)));
    // Above 1: bootmount is faster.
    const better = theirs.map(n => (key.endsWith('MB/s') ? ours / n : n / ours).toFixed(2));
    text += line([key, ours.toFixed(1), ...theirs.map(n => n.toFixed(1)), ...better]);
  }
  const raw = median(rounds.map(r => r.raw));
  const file = median(rounds.map(r => r.ours['reading a file in order, MB/s']));
  const [worker, parser] = [median(rounds.map(r => r.memory.worker)), median(rounds.map(r => r.memory.parser))];
  text += `\nThe raw view in order: ${raw.toFixed(0)} MB/s; file / raw view: ${(file / raw).toFixed(2)}. `;
  return `${text}Peak memory: worker ${worker.toFixed(0)} MiB, parser ${parser.toFixed(0)} MiB.\n`;
}

// Its machine, too, is emulated where KVM does not work.
if ((await chooseAccelerator(folder)) !== 'kvm') process.env.LIBGUESTFS_BACKEND_SETTINGS ??= 'force_tcg';
process.env.LIBGUESTFS_BACKEND ??= 'direct';

try {
  for (const dir of [repo, mnt, peer]) fs.mkdirSync(dir);
  const tables: string[] = [];
  for (const subject of subjects) {
    prepare(subject);
    const rounds: Round[] = [];
    for (let n = 0; n < Number(values.rounds); n++) rounds.push(await round(subject));
    tables.push(table(subject, rounds));
    process.stdout.write(`\n${tables.at(-1)}`);
  }
  const load = os.loadavg()[2]!.toFixed(1);
  const processor = `${os.cpus().length} × ${os.cpus()[0]!.model.trim()}`;
  fs.writeFileSync(
    RESULTS,
    `# Results of single files

Made by \`npm run bench:files\` on ${new Date().toISOString().slice(0, 10)}.

- Linux ${os.release()}, ${processor}, Node ${process.versions.node}; load of the last 15 minutes at the end: ${load}
- Fresh volumes of 1 TiB with a folder of ${FILES} files and a file of ${LARGE} MiB in a raw disk; ${values.rounds} rounds, each on fresh mounts. The first listing counts from the start of the peer, and from the first look into \`files/\` of a mount that is there. Ratios above 1: bootmount is faster.

${tables.join('\n')}`,
  );
} finally {
  // The guard of a mountpoint stays after an unmount.
  tool('chattr', ['-f', '-i', mnt]);
  fs.rmSync(folder, { recursive: true, force: true });
}

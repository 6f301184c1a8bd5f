/**
 * `npm run bench:files [-- --folder DIR]`: single files of 1 TiB volumes through the mount, beside ntfs-3g and fuse2fs
 * on the same images. Every figure is the median of several fresh mounts, ours and theirs in turns. Needs root and FUSE.
 */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { runCli } from '../e2e/run-cli.ts';
import { noise, tool } from '../kit/volume-images.ts';
import { imageDisk, volumesOf } from '../kit/volume-walk.ts';

const { values } = parseArgs({
  options: {
    folder: { type: 'string', default: os.tmpdir() },
    rounds: { type: 'string', default: '3' },
    mib: { type: 'string', default: '1024' },
  },
});
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
  /** How the image is mounted to be filled, and as a peer. */
  readonly fill: readonly string[];
  readonly peer: readonly string[];
}

const subjects: readonly Subject[] = [
  {
    name: 'ntfs',
    make: ['mkntfs', '-F', '-Q', '-q'],
    fill: ['ntfs-3g'],
    peer: ['ntfs-3g', '-o', 'ro'],
  },
  {
    name: 'ext4',
    make: ['mke2fs', '-q', '-F', '-t', 'ext4', '-E', 'lazy_itable_init=1', '-N', '200000'],
    fill: ['mount', '-o', 'loop'],
    peer: ['fuse2fs', '-o', 'ro'],
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

/** The most that any process of this mount has had in memory, MiB. */
function memory(): number {
  let most = 0;
  for (const pid of fs.readdirSync('/proc').filter(name => /^\d+$/.test(name))) {
    try {
      if (!fs.readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes('src/files/child')) continue;
      const peak = /VmHWM:\s+(\d+)/.exec(fs.readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1];
      most = Math.max(most, Number(peak ?? 0) / 1024);
    } catch {
      // It has ended.
    }
  }
  return most;
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

interface Round {
  readonly ours: Figures;
  readonly theirs: Figures;
  readonly raw: number;
  readonly memory: number;
}

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
    const begin = performance.now();
    tool(subject.peer[0]!, [...subject.peer.slice(1), imageOf(subject), peer]);
    fs.readdirSync(peer);
    const mounting = performance.now() - begin;
    const theirs = { ...measure(peer, 'file number 777.txt'), [first]: mounting };
    tool('umount', [peer]);
    return { ours, theirs, raw, memory: memory() };
  } finally {
    await runCli(['umount', mnt]);
  }
}

try {
  for (const dir of [repo, mnt, peer]) fs.mkdirSync(dir);
  for (const subject of subjects) {
    prepare(subject);
    const rounds: Round[] = [];
    for (let n = 0; n < Number(values.rounds); n++) rounds.push(await round(subject));
    process.stdout.write(
      `\n| ${subject.name}, 1 TiB | bootmount | ${subject.peer[0]} | theirs / ours |\n|---|---|---|---|\n`,
    );
    for (const key of Object.keys(rounds[0]!.ours) as (keyof Figures)[]) {
      const [ours, theirs] = [median(rounds.map(r => r.ours[key])), median(rounds.map(r => r.theirs[key]))];
      const better = key.endsWith('MB/s') ? ours / theirs : theirs / ours;
      process.stdout.write(`| ${key} | ${ours.toFixed(1)} | ${theirs.toFixed(1)} | ${better.toFixed(2)} |\n`);
    }
    const raw = median(rounds.map(r => r.raw));
    const file = median(rounds.map(r => r.ours['reading a file in order, MB/s']));
    process.stdout.write(
      `| the raw view in order, MB/s | ${raw.toFixed(1)} | | file / raw view ${(file / raw).toFixed(2)} |\n`,
    );
    process.stdout.write(`| peak memory of the parser, MiB | ${median(rounds.map(r => r.memory)).toFixed(0)} | | |\n`);
  }
} finally {
  // The guard of a mountpoint stays after an unmount.
  tool('chattr', ['-f', '-i', mnt]);
  fs.rmSync(folder, { recursive: true, force: true });
}

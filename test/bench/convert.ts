/**
 * `npm run bench:convert -- [--rounds 3] [--size MIB] [--pause SECONDS] [--only NAME,NAME]`: `bootmount convert` and reads
 * through a mount beside `qemu-img convert`, in turns in one run; medians and ratios go to test/bench/CONVERT.md unless
 * `--only` chooses some of the rows. A ratio above 1 is faster than QEMU. `convert` makes its file durable and reads it back,
 * and QEMU does neither by itself: each of ours is measured against QEMU with what gives the same assurance, `sync` and
 * `qemu-img compare`; and into tmpfs, where there is nothing to make durable, against QEMU alone. `--pause`: rest before what
 * goes to the device, for one that lets nobody write fast for long. Reads are measured alone: what is read is written
 * nowhere, by QEMU neither (its driver null-co). Needs root, /dev/fuse, qemu-img.
 */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { pattern } from '../kit/disks.ts';
import { warmMemory } from './jobs.ts';
import { storageDaemon } from './peers.ts';

const RESULTS = fileURLToPath(new URL('./CONVERT.md', import.meta.url));
const PROGRAM = fileURLToPath(new URL('../../src/cli/bootmount.js', import.meta.url));

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    size: { type: 'string', default: '1024' },
    pause: { type: 'string', default: '0' },
    only: { type: 'string', default: '' },
  },
});
const MIB = 2 ** 20;
const size = Number(values.size) * MIB;
const rounds = Number(values.rounds);
const pause = values.pause === '0' ? '' : `${values.pause} s of rest before what goes to the device; `;

const MEMORY = '/dev/shm';

const folder = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-convert-')));
const at = (name: string): string => path.join(folder, name);
const run = (program: string, ...args: string[]): void =>
  void execFileSync(program, args, { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] });
const bootmount = (...args: string[]): void => run(process.execPath, PROGRAM, ...args);

interface Kind {
  readonly title: string;
  readonly name: string;
  readonly qemu: string;
  readonly flags: readonly string[];
}
const kind = (title: string, name: string, qemu: string, ...flags: readonly string[]): Kind => ({
  title,
  name,
  qemu,
  flags,
});
const SOURCES = [
  kind('raw', 'raw.raw', 'raw'),
  kind('QCOW2', 'plain.qcow2', 'qcow2'),
  kind('QCOW2, zlib', 'zlib.qcow2', 'qcow2', '-c'),
  kind('QCOW2, zstd', 'zstd.qcow2', 'qcow2', '-c', '-o', 'compression_type=zstd'),
  kind('VHD', 'dynamic.vhd', 'vpc', '-o', 'force_size=on'),
  kind('VHDX', 'dynamic.vhdx', 'vhdx'),
  kind('VMDK', 'sparse.vmdk', 'vmdk'),
  kind('VMDK, streamOptimized', 'stream.vmdk', 'vmdk', '-o', 'subformat=streamOptimized'),
  kind('VDI', 'dynamic.vdi', 'vdi'),
  kind('Parallels', 'x.hdd', 'parallels'),
  kind('QED', 'x.qed', 'qed'),
] as const;
const TARGETS = [
  kind('raw', 'out.raw', 'raw'),
  kind('QCOW2', 'out.qcow2', 'qcow2'),
  kind('VHD', 'out.vhd', 'vpc', '-o', 'force_size=on'),
  kind('VHDX', 'out.vhdx', 'vhdx'),
  kind('VMDK', 'out.vmdk', 'vmdk'),
  kind('VDI', 'out.vdi', 'vdi'),
] as const;

/** Three quarters are data: half of it compresses well, half not at all. */
function makeDisk(file: string): void {
  const fd = fs.openSync(file, 'w');
  const block = new Uint8Array(MIB);
  for (let i = 0; i * MIB < size; i++) {
    if (i % 4 === 3) continue;
    if (i % 2 === 0) pattern(block, i * MIB, 1);
    else for (let b = 0; b < MIB; b += 4096) block.fill(1 + ((i + b / 4096) % 250), b, b + 4096);
    fs.writeSync(fd, block, 0, MIB, i * MIB);
  }
  fs.ftruncateSync(fd, size);
  fs.closeSync(fd);
}

/**
 * Seconds at the end of each step, from the start of the first. What an earlier one left to be written back goes first, and
 * memory that the host took back meanwhile is asked for again.
 */
function timed(made: string, ...steps: readonly (() => void)[]): readonly number[] {
  fs.rmSync(made, { force: true });
  run('sync', folder);
  if (made.startsWith(MEMORY)) warmMemory(MEMORY, size / MIB);
  else {
    run('sleep', values.pause);
    warmMemory(folder);
  }
  const began = performance.now();
  return steps.map(step => {
    step();
    return (performance.now() - began) / 1000;
  });
}

function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  return (sorted[Math.floor(middle)]! + sorted[Math.ceil(middle)]!) / 2;
}

interface Row {
  readonly title: string;
  readonly qemu: number[];
  readonly qemuDurable: number[];
  readonly qemuChecked: number[];
  readonly durable: number[];
  readonly checked: number[];
  /** Into tmpfs. */
  readonly qemuMemory: number[];
  readonly memory: number[];
}
const row = (title: string): Row => ({
  title,
  qemu: [],
  qemuDurable: [],
  qemuChecked: [],
  durable: [],
  checked: [],
  qemuMemory: [],
  memory: [],
});

interface Reads {
  readonly title: string;
  readonly qemu: number[];
  /** By `dd`. */
  readonly mounted: number[];
  readonly byQemu: number[];
  /** By `dd`, served by the peer. */
  readonly exported: number[];
}
const reads = (title: string): Reads => ({ title, qemu: [], mounted: [], byQemu: [], exported: [] });

/** All sources together may be more than the page cache holds. */
const intoMemory = (file: string): void => run('cat', file);

function measureConvert(its: Row, from: Kind, to: Kind): void {
  const [source, out] = [at(from.name), at(to.name)];
  intoMemory(source);
  const byQemu = (made: string): void =>
    run('qemu-img', 'convert', '-f', from.qemu, '-O', to.qemu, ...to.flags, source, made);
  const [plain, durable, checked] = timed(
    out,
    () => byQemu(out),
    () => run('sync', out),
    () => run('qemu-img', 'compare', '-f', from.qemu, '-F', to.qemu, source, out),
  );
  its.qemu.push(plain!);
  its.qemuDurable.push(durable!);
  its.qemuChecked.push(checked!);
  its.durable.push(...timed(out, () => bootmount('convert', '--no-read-back', source, out)));
  its.checked.push(...timed(out, () => bootmount('convert', source, out)));
  fs.rmSync(out);
  const made = path.join(MEMORY, `${path.basename(folder)}-${to.name}`);
  its.qemuMemory.push(...timed(made, () => byQemu(made)));
  its.memory.push(...timed(made, () => bootmount('convert', '--no-read-back', source, made)));
  fs.rmSync(made);
}

/** `qemu-img convert` into nothing. */
const drain = (file: string, format: string, ...flags: readonly string[]): void =>
  run('qemu-img', 'convert', ...flags, '-n', '-f', format, '--target-image-opts', file, `driver=null-co,size=${size}`);

/** One reader, one request after the other, around the page cache: what is timed is the mount. */
const dd = (file: string): void => run('dd', `if=${file}`, 'of=/dev/null', 'bs=4M', 'iflag=direct');

/** So often in each round: a read takes half a second. */
const READS = 3;

/** Seconds of a read of an image that lies in memory. */
function readingTime(read: () => void): number {
  const began = performance.now();
  read();
  return (performance.now() - began) / 1000;
}

/** The whole disk, read by QEMU from the image, by `dd` and by QEMU through our mount, by `dd` through the peer's. */
async function measureReads(its: Reads, from: Kind): Promise<void> {
  const [mnt, state] = [at('mnt'), at('state')];
  intoMemory(at(from.name));
  fs.mkdirSync(mnt, { recursive: true });
  bootmount('mount', at(from.name), mnt, '--state', state);
  try {
    const [set] = fs.readdirSync(path.join(mnt, 'backups'));
    const disk = path.join(mnt, 'backups', set!, 'latest', 'disk0.raw');
    // Opened: what is timed is reading, by `qemu-img` too.
    run('qemu-img', 'info', disk);
    for (let n = 0; n < READS; n++) {
      its.qemu.push(readingTime(() => drain(at(from.name), from.qemu)));
      its.mounted.push(readingTime(() => dd(disk)));
      its.byQemu.push(readingTime(() => drain(disk, 'raw', '-T', 'none')));
    }
  } finally {
    bootmount('umount', mnt, '--release');
  }
  const image = { file: at(from.name), format: from.qemu };
  const subject = { name: '', repo: '', point: '', keyFile: null, image, plain: null } as const;
  const served = await storageDaemon.serve({ ...subject, writable: false, jobs: [], prepared: null }, at('peer'));
  try {
    its.exported.push(readingTime(() => dd(served.file)));
  } finally {
    await served.stop();
  }
}

const seconds = (numbers: readonly number[]): string => (numbers.length === 0 ? '–' : median(numbers).toFixed(2));
const ratio = (peer: readonly number[], ours: readonly number[]): string =>
  ours.length === 0 ? '–' : (median(peer) / median(ours)).toFixed(2);

const line = (...cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
const table = (head: readonly string[], lines: readonly string[]): string =>
  [line('', ...head), `|${' --- |'.repeat(head.length + 1)}`, ...lines].join('\n');

const convertTable = (rows: readonly Row[]): string =>
  table(
    ['qemu-img convert', 'and sync', 'and compare', 'convert --no-read-back', 'ratio', 'convert', 'ratio'],
    rows.map(({ title, qemu, qemuDurable, qemuChecked, durable, checked }) =>
      line(
        title,
        ...[seconds(qemu), seconds(qemuDurable), seconds(qemuChecked)],
        ...[seconds(durable), ratio(qemuDurable, durable), seconds(checked), ratio(qemuChecked, checked)],
      ),
    ),
  );

const memoryTable = (rows: readonly Row[]): string =>
  table(
    ['qemu-img convert', 'convert --no-read-back', 'ratio'],
    rows.map(({ title, qemuMemory, memory }) =>
      line(title, seconds(qemuMemory), seconds(memory), ratio(qemuMemory, memory)),
    ),
  );

const readsTable = (rows: readonly Reads[]): string =>
  table(
    [
      'qemu-img of the image',
      'dd through the mount',
      'ratio',
      'qemu-img through the mount',
      'ratio',
      'dd through qemu-storage-daemon',
      'ratio',
    ],
    rows.map(({ title, qemu, mounted, byQemu, exported }) =>
      line(
        title,
        ...[seconds(qemu), seconds(mounted), ratio(qemu, mounted)],
        ...[seconds(byQemu), ratio(qemu, byQemu), seconds(exported), ratio(exported, mounted)],
      ),
    ),
  );

try {
  makeDisk(at('raw.raw'));
  const chosen = (title: string): boolean => values.only.split(',').some(name => title.includes(name));
  for (const { name, qemu, flags } of SOURCES.slice(1).filter(({ title }) => chosen(`${title} to raw`)))
    run('qemu-img', 'convert', '-f', 'raw', '-O', qemu, ...flags, at('raw.raw'), at(name));
  const sources = SOURCES.map(source => ({ source, its: row(`${source.title} to raw`), read: reads(source.title) }));
  const targets = TARGETS.slice(1).map(target => ({ target, its: row(`raw to ${target.title}`) }));
  const report = (done: number): void => {
    const converted = [...sources, ...targets].map(({ its }) => its).filter(({ title }) => chosen(title));
    const version = execFileSync('qemu-img', ['--version'], { encoding: 'utf8' }).split('\n')[0];
    const text = `# convert and reads through a mount, beside qemu-img

\`npm run bench:convert\`, ${new Date().toISOString().slice(0, 10)}: ${version}, Node ${process.version}, ${os.cpus().length} × ${os.cpus()[0]!.model}. A disk of ${values.size} MiB, three
quarters full, in the page cache; ${pause}seconds, ${done === 1 ? 'one round' : `medians of ${done} rounds`}. A ratio above 1 is faster than QEMU.

\`convert\` makes its file durable, which is compared with QEMU and \`sync\`, and without \`--no-read-back\` reads it back,
which is compared with QEMU, \`sync\` and \`qemu-img compare\`.

${convertTable(converted)}

Into tmpfs, where the data stay in memory whoever writes them:

${memoryTable(converted)}

Reading alone, nothing is written: \`qemu-img convert\` of the image into QEMU's null-co, beside the
whole disk through the mount as a raw file, read by \`dd bs=4M iflag=direct\` and by \`qemu-img convert -T none\` into null-co.
Last, the same image served as a file by \`qemu-storage-daemon\`, and what \`dd\` takes through our mount beside it.

${readsTable(sources.filter(({ its }) => chosen(its.title)).map(({ read }) => read))}
`;
    if (values.only === '') fs.writeFileSync(RESULTS, text);
    process.stdout.write(text);
  };
  for (let round = 0; round < rounds; round++) {
    for (const { source, its, read } of sources.filter(({ its }) => chosen(its.title))) {
      measureConvert(its, source, TARGETS[0]);
      await measureReads(read, source);
    }
    for (const { target, its } of targets.filter(({ its }) => chosen(its.title)))
      measureConvert(its, SOURCES[0], target);
    // After each one: a run that is stopped leaves what it has.
    report(round + 1);
  }
} finally {
  fs.rmSync(folder, { recursive: true, force: true });
}

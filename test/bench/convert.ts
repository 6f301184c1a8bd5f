/**
 * `npm run bench:convert -- [--rounds 3] [--size MIB]`: `bootmount convert` and reads through a mount beside
 * `qemu-img convert`, in turns in one run; medians and ratios go to test/bench/CONVERT.md. A ratio above 1 is faster than
 * QEMU. `convert` makes its file durable and reads it back; QEMU does neither by itself, so it is measured alone and with
 * `sync` and `qemu-img compare` behind it, which gives the same assurance. Needs root, /dev/fuse, qemu-img.
 */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { pattern } from '../kit/disks.ts';

const RESULTS = fileURLToPath(new URL('./CONVERT.md', import.meta.url));
const PROGRAM = fileURLToPath(new URL('../../src/cli/bootmount.js', import.meta.url));

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '3' }, size: { type: 'string', default: '768' } },
});
const MIB = 2 ** 20;
const size = Number(values.size) * MIB;
const rounds = Number(values.rounds);

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

/** Seconds. What an earlier one left to be written back goes first. */
function timed(work: () => void, made: string): number {
  fs.rmSync(made, { force: true });
  run('sync', folder);
  const began = performance.now();
  work();
  return (performance.now() - began) / 1000;
}

const median = (numbers: readonly number[]): number =>
  [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)]!;

interface Row {
  readonly title: string;
  readonly qemu: number[];
  readonly qemuChecked: number[];
  readonly ours: number[];
  readonly mounted: number[];
}
const row = (title: string): Row => ({ title, qemu: [], qemuChecked: [], ours: [], mounted: [] });

function measureConvert(its: Row, from: Kind, to: Kind): void {
  const [source, out] = [at(from.name), at(to.name)];
  const convert = (): void => run('qemu-img', 'convert', '-f', from.qemu, '-O', to.qemu, ...to.flags, source, out);
  its.qemu.push(timed(convert, out));
  const checked = (): void => {
    convert();
    run('sync', out);
    run('qemu-img', 'compare', '-f', from.qemu, '-F', to.qemu, source, out);
  };
  its.qemuChecked.push(timed(checked, out));
  its.ours.push(timed(() => bootmount('convert', source, out), out));
  fs.rmSync(out);
}

/** Both read by `qemu-img convert`: once by QEMU's own driver, once through the mount. */
function measureMounted(its: Row, from: Kind): void {
  const [mnt, state, out] = [at('mnt'), at('state'), at('out.raw')];
  fs.mkdirSync(mnt, { recursive: true });
  bootmount('mount', at(from.name), mnt, '--state', state);
  try {
    const [set] = fs.readdirSync(path.join(mnt, 'backups'));
    const shown = path.join(mnt, 'backups', set!, 'latest', 'disk0.raw');
    its.mounted.push(timed(() => run('qemu-img', 'convert', '-f', 'raw', '-O', 'raw', shown, out), out));
  } finally {
    bootmount('umount', mnt, '--release');
  }
  fs.rmSync(out, { force: true });
}

const seconds = (numbers: readonly number[]): string => (numbers.length === 0 ? '–' : median(numbers).toFixed(2));
const ratio = (peer: readonly number[], ours: readonly number[]): string =>
  ours.length === 0 ? '–' : (median(peer) / median(ours)).toFixed(2);

function tableOf(rows: readonly Row[]): string {
  const head =
    '| | qemu-img convert | and sync, compare | bootmount convert | ratio | ratio, both checked | read through a mount | ratio |';
  const lines = rows.map(
    ({ title, qemu, qemuChecked, ours, mounted }) =>
      `| ${title} | ${seconds(qemu)} | ${seconds(qemuChecked)} | ${seconds(ours)} | ${ratio(qemu, ours)} | ${ratio(qemuChecked, ours)} | ${seconds(mounted)} | ${ratio(qemu, mounted)} |`,
  );
  return [head, '| --- | --- | --- | --- | --- | --- | --- | --- |', ...lines].join('\n');
}

try {
  makeDisk(at('raw.raw'));
  for (const { name, qemu, flags } of SOURCES.slice(1))
    run('qemu-img', 'convert', '-f', 'raw', '-O', qemu, ...flags, at('raw.raw'), at(name));
  const reads = SOURCES.map(({ title }) => row(`${title} to raw`));
  const writes = TARGETS.slice(1).map(({ title }) => row(`raw to ${title}`));
  for (let round = 0; round < rounds; round++) {
    for (const [i, source] of SOURCES.entries()) {
      measureConvert(reads[i]!, source, TARGETS[0]);
      measureMounted(reads[i]!, source);
    }
    for (const [i, target] of TARGETS.slice(1).entries()) measureConvert(writes[i]!, SOURCES[0], target);
  }
  const version = execFileSync('qemu-img', ['--version'], { encoding: 'utf8' }).split('\n')[0];
  const text = `# convert, beside qemu-img

\`npm run bench:convert\`, ${new Date().toISOString().slice(0, 10)}: ${version}, Node ${process.version}, ${os.cpus().length} × ${os.cpus()[0]!.model}. A disk of ${values.size} MiB, three
quarters full, in the page cache; seconds, medians of ${rounds} rounds. A ratio above 1 is faster than QEMU. \`bootmount convert\`
always makes the file durable and reads it back; the column with \`sync\` and \`compare\` is QEMU doing the same.

${tableOf([...reads, ...writes])}
`;
  fs.writeFileSync(RESULTS, text);
  process.stdout.write(text);
} finally {
  fs.rmSync(folder, { recursive: true, force: true });
}

/**
 * `npm run bench:products`: a whole disk read through a mount, beside the product's own tool or the best open one, in
 * interleaved rounds; medians and ratios go to test/bench/PRODUCTS.md. Needs root, /dev/fuse, room for some copies of a
 * disk in memory (/dev/shm), and as many of the tools as are installed.
 *
 *   npm run bench:products -- [--rounds 5] [--size 384] [--only ewf,partclone] [--disk FILE]
 *
 * `--disk`: what the file begins with instead of data that are made.
 */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { missing } from '../kit/oracles.ts';
import { productSubjects, type Subject } from './product-subjects.ts';

const RESULTS = fileURLToPath(new URL('./PRODUCTS.md', import.meta.url));
const PROGRAM = fileURLToPath(new URL('../../src/cli/bootmount.js', import.meta.url));
const MIB = 2 ** 20;

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    size: { type: 'string', default: '384' },
    only: { type: 'string', default: '' },
    disk: { type: 'string', default: '' },
  },
});
const rounds = Number(values.rounds);
const SIZE = Number(values.size) * MIB;
const only = values.only === '' ? null : values.only.split(',');
const root = fs.mkdtempSync('/dev/shm/bootmount-products-');

const sh = (command: string): void => {
  execFileSync('bash', ['-c', `set -eo pipefail; ${command}`], { stdio: ['ignore', 'ignore', 'pipe'], cwd: root });
};

/** Half of it data of the kind that file systems hold, the rest zeros. */
function writeDisk(file: string): void {
  const part = Buffer.alloc(MIB);
  const fd = fs.openSync(file, 'w');
  let state = 1;
  for (let at = 0; at < SIZE; at += MIB) {
    if (Math.floor(at / MIB) % 4 < 3) {
      for (let i = 0; i < MIB; i++) {
        if (i % 3 === 0) state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
        part[i] = i % 4096 < 2600 ? 64 + ((state >>> 24) & 31) : 32;
      }
      fs.writeSync(fd, part, 0, MIB, at);
    }
  }
  fs.ftruncateSync(fd, SIZE);
  fs.closeSync(fd);
}

const median = (numbers: readonly number[]): number =>
  numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? Number.NaN;

const secondsOf = (command: string): number => {
  const begin = performance.now();
  sh(command);
  return (performance.now() - begin) / 1000;
};

interface Row {
  readonly title: string;
  /** MB/s of the disk, by who did it. */
  readonly rates: ReadonlyMap<string, number>;
  /** As `rates`, of what is no tool to compare with. */
  readonly bounds: ReadonlyMap<string, number>;
  /** There is no tool to compare with. */
  readonly isBound: boolean;
}

async function measure(subject: Subject, disk: string): Promise<Row> {
  const folder = path.join(root, subject.name);
  const mnt = path.join(root, 'mnt');
  const out = path.join(root, 'out');
  fs.mkdirSync(folder);
  fs.mkdirSync(mnt, { recursive: true });
  await subject.make(disk, folder);
  execFileSync(process.execPath, [
    PROGRAM,
    'mount',
    folder,
    mnt,
    '--state',
    path.join(root, 'state'),
    ...(subject.flags ?? []),
  ]);
  try {
    const set = path.join(mnt, 'backups', fs.readdirSync(path.join(mnt, 'backups'))[0]!, 'latest');
    const file = path.join(set, fs.readdirSync(set).find(name => name.endsWith('.raw'))!);
    const put = (text: string): string =>
      text
        .replaceAll('OUT', out)
        .replaceAll('IN', folder)
        .replaceAll('SIZE', `${SIZE}`)
        .replaceAll('DISK', `"${file}"`)
        .replaceAll('SOURCE', disk);
    // Where the tool has to write a file, ours writes one, too.
    const to = subject.target === 'file' ? 'of=OUT' : 'of=/dev/null';
    const ours = { name: 'bootmount', command: subject.reader ?? `dd if=DISK ${to} bs=1M iflag=direct` };
    const bounds = subject.bounds ?? [];
    const times = new Map<string, number[]>();
    // The first read indexes, and unpacks what is compressed as a whole.
    sh(put(`dd if="${file}" of=OUT bs=1M iflag=direct`));
    const sound = execFileSync('sha256sum', [out, file])
      .toString()
      .split('\n')
      .map(line => line.slice(0, 64));
    if (sound[0] !== sound[1]) throw new Error(`${subject.name}: two reads differ`);
    for (let round = 0; round < rounds; round++) {
      for (const { name, command } of [ours, ...subject.peers, ...bounds]) {
        fs.rmSync(out, { force: true, recursive: true });
        times.set(name, [...(times.get(name) ?? []), secondsOf(put(command))]);
      }
    }
    const rates = new Map(Array.from(times, ([name, all]) => [name, SIZE / 1e6 / median(all)] as const));
    const ratesOf = (these: readonly { readonly name: string }[]) =>
      new Map(these.map(({ name }) => [name, rates.get(name)!] as const));
    const isBound = subject.target === 'bound';
    return { title: subject.title, rates: ratesOf([ours, ...subject.peers]), bounds: ratesOf(bounds), isBound };
  } finally {
    execFileSync(process.execPath, [PROGRAM, 'umount', mnt, '--release']);
    fs.rmSync(out, { force: true, recursive: true });
    fs.rmSync(folder, { recursive: true });
  }
}

const versionOf = (program: string): string => {
  try {
    const text = execFileSync(
      'dpkg-query',
      ['-W', '--showformat', ['$', '{Package} ', '$', '{Version}'].join(''), program],
      { encoding: 'utf8' },
    );
    return text.trim();
  } catch {
    return `${program}: not installed`;
  }
};

const lineOf = ({ title, rates, bounds, isBound }: Row): string => {
  const [ours, ...peers] = [...rates];
  const best = Math.max(...peers.map(([, rate]) => rate));
  const text = (some: readonly (readonly [string, number])[]): string =>
    some.map(([name, rate]) => `${name} ${rate.toFixed(0)}`).join(', ');
  const all = text(peers) + (bounds.size === 0 ? '' : ` (${text([...bounds])})`);
  const ratio = isBound ? '–' : (ours![1] / best).toFixed(2);
  return `| ${title} | ${ours![1].toFixed(0)} | ${isBound ? `none (${all})` : all} | ${ratio} |`;
};

const PACKAGES = ['ewf-tools', 'partclone', 'xva-img', 'virtnbdbackup', 'qemu-utils', 'zstd'];

const report = (rows: readonly Row[], skipped: readonly string[]): string => `# A whole disk, beside the products' tools

\`npm run bench:products\`, ${new Date().toISOString().slice(0, 10)}: ${os.cpus().length} × ${os.cpus()[0]?.model ?? 'CPU'}, Linux ${os.release()}, Node
${process.versions.node}; ${PACKAGES.map(versionOf).join(', ')}.

A disk of ${SIZE / MIB} MiB, three quarters of it data; backup and target in memory. MB/s of the disk, medians of ${rounds} interleaved
rounds. Ours is \`dd\` through the mount, one reader, to /dev/null where the tool writes there, else to a file as the tool does;
the ratio is to the fastest tool. Beside \`qemu-img\`, which reads and writes at the same time and leaves zeros out, it is
\`qemu-img\` that reads the mount as well; in parentheses is what it and \`dd\` make of the plain disk, without format or mount.
Where no open tool is to be had, what \`cat\` of the backup's files takes stands in its place, as a bound.

| Backup | bootmount | others | ratio |
| --- | ---: | --- | ---: |
${rows.map(lineOf).join('\n')}
${skipped.map(line => `\nNot measured: ${line}.`).join('')}`;

const disk = path.join(root, 'disk');
try {
  if (values.disk === '') writeDisk(disk);
  else sh(`head -c ${SIZE} '${path.resolve(values.disk)}' > ${disk}; truncate -s ${SIZE} ${disk}`);
  const rows: Row[] = [];
  const skipped: string[] = [];
  for (const subject of productSubjects(sh, root, SIZE)) {
    if (only !== null && !only.includes(subject.name)) continue;
    const reason = missing(subject.needs);
    if (reason !== null) skipped.push(`${subject.title} (${reason})`);
    else {
      rows.push(await measure(subject, disk));
      process.stdout.write(`${lineOf(rows.at(-1)!)}\n`);
    }
  }
  const text = report(rows, skipped);
  process.stdout.write(`${text}\n`);
  if (only === null && values.disk === '') fs.writeFileSync(RESULTS, `${text}\n`);
} finally {
  fs.rmSync(root, { recursive: true, force: true });
}

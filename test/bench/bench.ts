/**
 * `npm run bench`: this project beside its peers, in one run, in interleaved rounds; medians and ratios go to
 * test/bench/RESULTS.md. Needs root, /dev/fuse, fio, and as many of the peers as are installed.
 *
 *   npm run bench -- [--rounds 3] [--seconds 2] [--only raw,chain,bml,clone]
 */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { bootmount, peers, plainFile, type Subject, tool } from './peers.ts';
import { makeSubjects } from './subjects.ts';

const RESULTS = fileURLToPath(new URL('./RESULTS.md', import.meta.url));

interface Job {
  readonly name: string;
  readonly rw: 'read' | 'write' | 'randread' | 'randwrite';
  readonly bs: string;
  readonly depth: number;
  readonly unit: 'MB/s' | 'k IOPS';
}
const job = (name: string, rw: Job['rw'], depth: number): Job =>
  rw === 'read' || rw === 'write'
    ? { name, rw, bs: '1M', depth, unit: 'MB/s' }
    : { name, rw, bs: '4k', depth, unit: 'k IOPS' };
const READS = [
  job('seq read QD1', 'read', 1),
  job('seq read QD8', 'read', 8),
  job('rand read QD1', 'randread', 1),
  job('rand read QD32', 'randread', 32),
];
const WRITES = [
  job('seq write QD1', 'write', 1),
  job('seq write QD8', 'write', 8),
  job('rand write QD1', 'randwrite', 1),
  job('rand write QD32', 'randwrite', 32),
];

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '2' },
    only: { type: 'string', default: 'raw,vhd,chain,bml,clone' },
  },
});
const rounds = Number(values.rounds);
const seconds = Number(values.seconds);

const median = (numbers: readonly number[]): number =>
  [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? Number.NaN;

/** MB/s, or thousands of operations a second. */
function measure({ rw, bs, depth, unit }: Job, file: string): number {
  const out = tool(
    'fio',
    '--name=b',
    `--filename=${file}`,
    `--rw=${rw}`,
    `--bs=${bs}`,
    `--iodepth=${depth}`,
    '--direct=1',
    '--ioengine=libaio',
    '--time_based',
    `--runtime=${seconds}`,
    '--norandommap',
    '--output-format=json',
    '--invalidate=0',
  );
  const run = (
    JSON.parse(out.slice(out.indexOf('{'))) as { jobs: Record<'read' | 'write', { bw_bytes: number; iops: number }>[] }
  ).jobs[0]!;
  const side = rw.endsWith('read') ? run.read : run.write;
  return unit === 'MB/s' ? side.bw_bytes / 1e6 : side.iops / 1000;
}

type Figures = Map<string, Map<string, number[]>>;

async function runSubject(subject: Subject, folder: string): Promise<Figures> {
  const jobs = subject.writable ? [...READS, ...WRITES] : READS;
  const able = peers.filter(peer => peer.cannot(subject) === null);
  const figures: Figures = new Map(able.map(peer => [peer.name, new Map(jobs.map(({ name }) => [name, []]))]));
  for (let round = 0; round < rounds; round++) {
    for (const peer of able) {
      const mnt = fs.mkdtempSync(path.join(folder, 'mnt-'));
      const { file, stop } = await peer.serve(subject, mnt);
      try {
        for (const one of jobs) figures.get(peer.name)!.get(one.name)!.push(measure(one, file));
        // The first round of an encrypted chain decodes; what follows is served from the decoded blocks.
      } finally {
        await stop();
      }
      process.stderr.write(`${subject.name}, round ${round + 1}: ${peer.name}\n`);
    }
  }
  return figures;
}

const show = (n: number): string => (n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n.toFixed(2));

function table(subject: Subject, figures: Figures): string {
  const jobs = subject.writable ? [...READS, ...WRITES] : READS;
  const middle = (peer: string, name: string): number => median(figures.get(peer)?.get(name) ?? []);
  const others = [...figures.keys()].filter(name => name !== bootmount.name && name !== plainFile.name);
  const rows = [...figures.keys()].map(
    name => `| ${name} | ${jobs.map(j => show(middle(name, j.name))).join(' | ')} |`,
  );
  const ratio = (what: string, of: (name: string) => number): string =>
    `| **ratio to ${what}** | ${jobs.map(j => `**${show(middle(bootmount.name, j.name) / of(j.name))}**`).join(' | ')} |`;
  if (others.length > 0) rows.push(ratio('the best peer', name => Math.max(...others.map(peer => middle(peer, name)))));
  if (figures.has(plainFile.name)) rows.push(ratio('the plain file', name => middle(plainFile.name, name)));
  const head = `| | ${jobs.map(j => `${j.name} (${j.unit})`).join(' | ')} |\n|${'---|'.repeat(jobs.length + 1)}`;
  return `## ${subject.name}\n\n${head}\n${rows.join('\n')}\n`;
}

const version = (program: string, ...args: string[]): string => {
  try {
    return (
      tool(program, ...args)
        .split('\n')
        .find(line => /\d/.test(line))
        ?.trim() ?? ''
    );
  } catch {
    return 'not installed';
  }
};

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-bench-'));
try {
  const wanted = new Set(values.only.split(','));
  const parts: string[] = [];
  for (const { subject } of makeSubjects(folder, wanted)) parts.push(table(subject, await runSubject(subject, folder)));
  const machine = [
    `Linux ${os.release()}, ${os.cpus().length} × ${os.cpus()[0]?.model.trim()}, Node ${process.versions.node}`,
    `${version('qemu-img', '--version')}; ${version('nbdkit', '--version')}; ${version('fio', '--version')}`,
    `Medians of ${rounds} interleaved rounds of ${seconds} s, O_DIRECT, libaio; the backing files are in the page cache. Absolute figures vary between machines; the ratios are the point.`,
  ];
  fs.writeFileSync(
    RESULTS,
    `# Benchmark results\n\nMade by \`npm run bench\` on ${new Date().toISOString().slice(0, 10)}.\n\n${machine.map(line => `- ${line}`).join('\n')}\n\n${parts.join('\n')}`,
  );
  process.stdout.write(fs.readFileSync(RESULTS, 'utf8'));
} finally {
  fs.rmSync(folder, { recursive: true, force: true });
}

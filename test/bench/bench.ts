/**
 * `npm run bench`: this project beside its peers, in one run, in interleaved rounds; medians and ratios go to
 * test/bench/RESULTS.md. Needs root, /dev/fuse, fio, and as many of the peers as are installed. About seven minutes.
 *
 *   npm run bench -- [--rounds 3] [--ms 400] [--only raw,clone]   (a part is printed and not recorded)
 */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { measure, misses, prepare, warmMemory } from './jobs.ts';
import { type Peer, peers, type Subject, tool } from './peers.ts';
import { depthTable, type Figures, machine, type PeerFigures, table } from './report.ts';
import { makeSubjects, SUBJECTS } from './subjects.ts';

const RESULTS = fileURLToPath(new URL('./RESULTS.md', import.meta.url));

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    ms: { type: 'string', default: '400' },
    only: { type: 'string' },
  },
});
const rounds = Number(values.rounds);
const ms = Number(values.ms);
const wanted = new Set(values.only?.split(',') ?? SUBJECTS);
const unknown = [...wanted].filter(name => !SUBJECTS.includes(name));
if (unknown.length > 0 || !(rounds >= 1) || !(ms >= 1)) {
  process.stderr.write(`${unknown.join(', ') || '--rounds, --ms'}: not known. Subjects: ${SUBJECTS.join(', ')}\n`);
  process.exit(2);
}

/** `prove`: what is written is then read back too; the jobs of which that was not right go to `wrong`. */
async function runOnce(
  peer: Peer,
  subject: Subject,
  folder: string,
  { values: into, wrong }: PeerFigures,
  prove: boolean,
): Promise<void> {
  const mnt = fs.mkdtempSync(path.join(folder, 'mnt-'));
  const { file, stop } = await peer.serve(subject, mnt);
  try {
    if (subject.prepared !== null) prepare(subject.prepared, file);
    if (subject.jobs.some(({ once }) => once !== null)) warmMemory(folder);
    for (const job of subject.jobs) into.get(job.name)!.push(measure(job, file, ms));
    for (const job of prove ? subject.jobs : []) {
      const missed = misses(job, file);
      if (missed === null) continue;
      wrong.add(job.name);
      process.stderr.write(`${subject.name}: ${peer.name}, ${job.name}: WRONG BYTES: ${missed}\n`);
    }
  } finally {
    await stop();
  }
}

/** A peer that fails misses that round and says so; the others go on. */
async function runSubject(subject: Subject, folder: string): Promise<Figures> {
  const able = peers.filter(peer => peer.cannot(subject) === null);
  const figures = new Map(
    able.map(peer => [
      peer.name,
      { values: new Map(subject.jobs.map(({ name }) => [name, [] as number[]])), wrong: new Set<string>() },
    ]),
  );
  for (let round = 1; round <= rounds; round++) {
    for (const peer of able) {
      const began = performance.now();
      let told = '';
      try {
        await runOnce(peer, subject, folder, figures.get(peer.name)!, round === rounds);
      } catch (error) {
        told = ` FAILED: ${error instanceof Error ? error.message.split('\n')[0] : String(error)}`;
      }
      const took = ((performance.now() - began) / 1000).toFixed(1);
      process.stderr.write(`${subject.name}, round ${round}: ${peer.name} ${took} s${told}\n`);
    }
  }
  return figures;
}

/** Whatever a failed peer left mounted. */
function unmountAll(folder: string): void {
  const mounts = fs.readFileSync('/proc/self/mounts', 'utf8').split('\n');
  for (const mount of mounts.map(line => line.split(' ')[1] ?? '').filter(at => at.startsWith(`${folder}/`))) {
    try {
      tool('umount', '-l', mount);
    } catch {
      // Gone meanwhile.
    }
  }
}

const folder = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-bench-')));
process.once('SIGINT', () => process.exit(130));
process.once('exit', () => {
  unmountAll(folder);
  tool('chattr', '-R', '-f', '-i', folder);
  fs.rmSync(folder, { recursive: true, force: true });
});

const parts: string[] = [];
const all = new Map<string, Figures>();
for await (const { key, subject } of makeSubjects(folder, wanted)) {
  const figures = await runSubject(subject, folder);
  all.set(key, figures);
  parts.push(table(subject, figures));
  for (const [shallow, deep, name] of [
    ['qcow2-1', 'qcow2-100', 'What depth costs: QCOW2'],
    ['bml-1', 'bml-100', 'What depth costs: encrypted .bml'],
  ] as const) {
    if (key === deep && all.has(shallow)) parts.push(depthTable(name, subject.jobs, all.get(shallow)!, figures));
  }
}
const results = `# Benchmark results\n\nMade by \`npm run bench\` on ${new Date().toISOString().slice(0, 10)}.\n\n${machine(rounds, ms)}\n\n${parts.join('\n')}`;
if (values.only === undefined) fs.writeFileSync(RESULTS, results);
process.stdout.write(results);

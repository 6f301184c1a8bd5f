/**
 * `npm run bench:scale`: a 1 TiB disk with a thousand incrementals beside the same disk with one point, and one of 16 TiB,
 * read through a mount. Figures go to test/bench/RESULTS-scale.md. Needs root and /dev/fuse, and some 500 MB of space.
 *
 *   npm run bench:scale -- [--layers 1000] [--folder /tmp] [--repos /tmp/repos]
 *
 * `--repos`: where the repositories are, or are made and stay.
 */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { bml } from '../../formats/bml/index.ts';
import type { Image, Keyring } from '../../src/base/contracts.ts';
import { localWritableStore } from '../../src/stores/local.ts';
import { random } from '../kit/random.ts';

const RESULTS = fileURLToPath(new URL('./RESULTS-scale.md', import.meta.url));
const PROGRAM = fileURLToPath(new URL('../../src/cli/bootmount.js', import.meta.url));
const TIB = 2 ** 40;
const BLOCK = 65_536;
/** Blocks of the full, spread over the disk; each incremental writes some of them again. */
const STORED = 4000;
const CHANGED = 8;
const READS = 2000;

const { values } = parseArgs({
  options: {
    layers: { type: 'string', default: '1000' },
    folder: { type: 'string', default: os.tmpdir() },
    repos: { type: 'string' },
  },
});
const folder = fs.mkdtempSync(path.join(values.folder, 'bootmount-scale-'));
const NO_KEYS: Keyring = { secrets: async () => [] };

const blockAt = (n: number, size: number): number => Math.floor((n * (size / BLOCK - 1)) / (STORED - 1));

/** A full and `layers` incrementals, as they are written by a backup. */
async function makeChain(repo: string, size: number, layers: number): Promise<void> {
  const store = localWritableStore(repo);
  const { below } = random(31);
  let parent: Image | null = null;
  const data = Buffer.alloc(BLOCK);
  for (let i = 0; i <= layers; i++) {
    const name = `s/${String(i).padStart(5, '0')}.bml`;
    {
      await using writer = await bml.create!(name, store, {
        set: 's',
        time: new Date(Date.UTC(2026, 0, 1) + i * 3_600_000),
        type: i === 0 ? 'full' : 'incremental',
        disks: [{ name: 'disk0', size, sectorSize: 512 }],
        blockSize: BLOCK,
        parent: parent === null ? null : { image: parent, point: parent.points.at(-1)! },
        secret: null,
        compression: 3,
      });
      for (let n = 0; n < (i === 0 ? STORED : CHANGED); n++) {
        const which = i === 0 ? n : below(STORED);
        for (let at = 0; at < BLOCK; at += 8) data.writeDoubleLE(i * STORED + which + at / BLOCK, at);
        await writer.write(0, blockAt(which, size), data);
      }
      await writer.commit();
    }
    const next = await bml.open(name, store, NO_KEYS);
    await parent?.[Symbol.asyncDispose]();
    parent = next;
  }
  await parent?.[Symbol.asyncDispose]();
}

const middle = (numbers: readonly number[]): number => [...numbers].sort((a, b) => a - b)[numbers.length >> 1]!;

interface Status {
  readonly supervisor: { readonly pid: number };
  readonly worker: { readonly pid: number };
}

/** Most memory, in MiB, that the processes of the mount had together. */
function residentOf(mnt: string): number {
  const said = execFileSync(process.execPath, [PROGRAM, 'mount', '--status', mnt, '--json'], { encoding: 'utf8' });
  const { supervisor, worker } = JSON.parse(said) as Status;
  const peak = (pid: number): number =>
    Number(/VmHWM:\s+(\d+)/.exec(fs.readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) / 1024;
  return peak(supervisor.pid) + peak(worker.pid);
}

interface Figures {
  /** Seconds from the command to the first byte of the newest point, the better of two mounts. */
  readonly first: number;
  /** Microseconds of a 4 KiB read at a random stored block, the median. */
  readonly latency: number;
  readonly resident: number;
}

function measure(repo: string, size: number): Figures {
  const mnt = fs.mkdtempSync(path.join(folder, 'mnt-'));
  const state = fs.mkdtempSync(path.join(folder, 'state-'));
  const firsts: number[] = [];
  const times: number[] = [];
  let resident = 0;
  for (let round = 0; round < 2; round++) {
    const begin = performance.now();
    execFileSync(process.execPath, [PROGRAM, 'mount', repo, mnt, '--state', state], { stdio: 'ignore' });
    try {
      const fd = fs.openSync(path.join(mnt, 'backups', 's', 'latest', 'disk0.raw'), 'r');
      const page = Buffer.alloc(4096);
      fs.readSync(fd, page, 0, page.length, 0);
      firsts.push((performance.now() - begin) / 1000);
      const { below } = random(32 + round);
      for (let n = 0; n < READS; n++) {
        const at = blockAt(below(STORED), size) * BLOCK + below(16) * 4096;
        const from = performance.now();
        fs.readSync(fd, page, 0, page.length, at);
        times.push((performance.now() - from) * 1000);
      }
      fs.closeSync(fd);
      resident = Math.max(resident, residentOf(mnt));
    } finally {
      execFileSync(process.execPath, [PROGRAM, 'umount', mnt, '--release'], { stdio: 'ignore' });
    }
  }
  return { first: Math.min(...firsts), latency: middle(times), resident };
}

try {
  const layers = Number(values.layers);
  const subjects = [
    { name: '1 TiB, 1 point', size: TIB, layers: 0 },
    { name: `1 TiB, ${layers} incrementals`, size: TIB, layers },
    { name: '16 TiB, 1 point', size: 16 * TIB, layers: 0 },
    { name: `16 TiB, ${layers} incrementals`, size: 16 * TIB, layers },
  ];
  const rows: string[] = [];
  let base = 0;
  for (const [i, subject] of subjects.entries()) {
    const repo = path.join(values.repos ?? folder, `${subject.size / TIB}-tib-${subject.layers}`);
    if (!fs.existsSync(repo)) await makeChain(repo, subject.size, subject.layers);
    const { first, latency, resident } = measure(repo, subject.size);
    if (i % 2 === 0) base = latency;
    rows.push(
      `| ${subject.name} | ${first.toFixed(2)} | ${resident.toFixed(0)} | ${latency.toFixed(0)} | ${(latency / base).toFixed(2)} |`,
    );
    process.stderr.write(`${rows.at(-1)}\n`);
    if (values.repos === undefined) fs.rmSync(repo, { recursive: true });
  }
  const load = os
    .loadavg()
    .map(n => n.toFixed(1))
    .join(', ');
  fs.writeFileSync(
    RESULTS,
    `# Long chains of big disks

Made by \`npm run bench:scale\` on ${new Date().toISOString().slice(0, 10)}; Linux ${os.release()}, ${os.cpus().length} × ${os.cpus()[0]?.model.trim()}, Node ${process.versions.node}; load at the end: ${load}.

${STORED} blocks of 64 KiB in the full, spread over the disk, and ${CHANGED} of them written again in each incremental. Read through
the mount, one 4 KiB read at a time, ${2 * READS} in all at random stored blocks; medians. The files are in the page cache.

| | mount to first byte (s) | peak memory (MiB) | 4 KiB read (µs) | to one point |
|---|---|---|---|---|
${rows.join('\n')}
`,
  );
  process.stdout.write(fs.readFileSync(RESULTS, 'utf8'));
} finally {
  fs.rmSync(folder, { recursive: true, force: true });
}

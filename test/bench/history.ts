/**
 * `npm run bench:history [-- --folder DIR] [--points N]`: every version of one file over the points of a disk of 20 GiB.
 * Needs root, for the loop mount that changes the disk between backups.
 */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { runCli } from '../e2e/run-cli.ts';
import { noise, tool } from '../kit/volume-images.ts';

const { values } = parseArgs({
  options: {
    folder: { type: 'string', default: os.tmpdir() },
    points: { type: 'string', default: '100' },
    mib: { type: 'string', default: '256' },
  },
});
const GIB = 2 ** 30;
const MIB = 2 ** 20;
const POINTS = Number(values.points);
/** The file changes with every fifth point; others change with each. */
const EVERY = 5;
const folder = fs.mkdtempSync(path.join(values.folder, 'bootmount-bench-history-'));
const [disk, repo, mnt] = ['disk.raw', 'repo', 'mnt'].map(name => path.join(folder, name)) as [string, string, string];

function change(point: number): void {
  tool('mount', ['-o', 'loop', disk, mnt]);
  try {
    fs.mkdirSync(path.join(mnt, 'etc'), { recursive: true });
    if (point === 0) {
      for (let i = 0; i < Number(values.mib); i++) fs.writeFileSync(path.join(mnt, `data ${i}`), noise(MIB, i));
    }
    fs.writeFileSync(path.join(mnt, `data ${point % Number(values.mib)}`), noise(MIB, 1000 + point));
    if (point % EVERY === 0) fs.writeFileSync(path.join(mnt, 'etc/config'), `version ${point}\n`);
  } finally {
    tool('umount', [mnt]);
  }
}

async function ran(...args: readonly string[]): Promise<{ readonly stdout: string; readonly ms: number }> {
  const begin = performance.now();
  const { code, stdout, stderr } = await runCli([...args]);
  if (code !== 0) throw new Error(`${args.join(' ')}: ${stderr}`);
  return { stdout, ms: performance.now() - begin };
}

try {
  fs.mkdirSync(mnt);
  fs.writeFileSync(disk, '');
  fs.truncateSync(disk, 20 * GIB);
  tool('mke2fs', ['-q', '-F', '-t', 'ext4', disk]);
  for (let point = 0; point < POINTS; point++) {
    change(point);
    const time = new Date(Date.UTC(2026, 0, 1) + point * 86_400_000).toISOString();
    await ran('backup', disk, repo, '--set', 's', '--time', time, '--allocated', 'fs');
  }
  const took: number[] = [];
  let versions = 0;
  for (let n = 0; n < 3; n++) {
    const { stdout, ms } = await ran('history', 's:/p0-ext4/etc/config', '--repo', repo, '--json');
    versions = (JSON.parse(stdout) as readonly unknown[]).length;
    took.push(ms);
  }
  const median = took.toSorted((a, b) => a - b)[1]!;
  process.stdout.write(`${POINTS} points of a disk of 20 GiB, ${versions} versions: ${(median / 1000).toFixed(2)} s\n`);
} finally {
  fs.rmSync(folder, { recursive: true, force: true });
}

/** The memory of an overlay with ten million extents. */
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { ExtentsResult } from './extents.ts';
import type { Figure, Run } from './figure.ts';

const SCRIPT = fileURLToPath(new URL('./extents.ts', import.meta.url));
const GIB = 2 ** 30;
const OPEN_MS = 1000;

async function runExtents(run: Run): Promise<void> {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-soak-'));
  try {
    const count = run.count(10_000_000);
    const { stdout } = await promisify(execFile)(process.execPath, [SCRIPT, folder, String(count)]);
    const { blocks, seconds, rss, flushMs, openKilledMs, openMs, found } = JSON.parse(stdout) as ExtentsResult;
    const mib = (rss / 2 ** 20).toFixed(0);
    const rate = Math.round(blocks / seconds);
    run.verdict(
      'memory',
      rss <= GIB,
      `${blocks} random blocks (${found} different ones) at ${rate}/s: ${mib} MiB resident`,
    );
    const times = `${openKilledMs.toFixed(0)} ms after a kill, ${openMs.toFixed(0)} ms after a clean end; flush ${flushMs.toFixed(0)} ms`;
    run.verdict('opening', openKilledMs <= OPEN_MS && openMs <= OPEN_MS && found > 0.9 * blocks, times);
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

export const extentsFigure: Figure = {
  name: 'EXTENTS',
  what: '10 million random 4 KiB extents in one overlay take at most 1 GiB of memory, and it opens in < 1 s',
  plants: [],
  run: runExtents,
};

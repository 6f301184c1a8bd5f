/**
 * `npm run soak:views -- [FORMAT…] [--operations N] [--seed N]`: random guest operations by QEMU's own drivers, 16 and
 * more at once, through a writable clone of each format: write, write zeroes, discard, read, flush, reopen. A model, our
 * own reader and `qemu-img check` judge after every opening; then as many writes and reads with QEMU's `blkverify`
 * comparing each with a raw twin. Needs root, /dev/fuse, qemu-nbd. Ends with exit code 1 when anything differs.
 */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { FORMATS, type FormatName, guestRun, guestViews } from '../kit/guest-views.ts';

const DEPTH = 24;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { operations: { type: 'string', default: '100000' }, seed: { type: 'string', default: '1' } },
});
const formats = positionals.length === 0 ? FORMATS : (positionals as FormatName[]);
const operations = Number(values.operations);
const folder = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-views-')));
try {
  await using views = await guestViews(folder, formats);
  for (const format of formats) {
    for (const blkverify of [false, true]) {
      const began = performance.now();
      const run = {
        operations,
        perOpening: Math.ceil(operations / 20),
        depth: DEPTH,
        seed: Number(values.seed),
        blkverify,
      };
      const { counts, openings, wrong } = await guestRun(views, format, run);
      const seconds = ((performance.now() - began) / 1000).toFixed(0);
      const kinds = Object.entries(counts).map(([kind, n]) => `${kind} ${n}`);
      process.stdout.write(
        `${format}${blkverify ? ', blkverify' : ''}: ${kinds.join(', ')}; depth ${DEPTH}, ${openings} openings, ${seconds} s: ${wrong.length === 0 ? 'all equal' : wrong.join('; ')}\n`,
      );
      if (wrong.length > 0) process.exitCode = 1;
    }
  }
} finally {
  fs.rmSync(folder, { recursive: true, force: true });
}

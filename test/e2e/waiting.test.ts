/** However the serving thread waits for requests while they come, it costs nothing when none come. */
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as after } from 'node:timers/promises';
import { afterAll, describe, expect, it } from 'vitest';
import { fio, fioJob, removeTemporary, serve } from './served.ts';

const cannot =
  process.getuid?.() !== 0 || !fs.existsSync('/dev/fuse')
    ? 'needs /dev/fuse and root'
    : fs.existsSync('/usr/bin/fio')
      ? ''
      : 'fio is missing';
afterAll(removeTemporary);

/** Processor time of all threads, in ms. */
function cpuOf(pid: number): number {
  const stat = fs.readFileSync(`/proc/${pid}/stat`, 'latin1');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

describe.skipIf(cannot !== '')(`waiting for requests${cannot === '' ? '' : ` (skipped: ${cannot})`}`, () => {
  it('takes no processor time on an idle mount, right after requests came one by one', async () => {
    await using served = await serve({ transport: 'fuse' });
    const pid = served.child.pid!;
    const file = path.join(served.at, 'pattern.raw');
    const before = cpuOf(pid);
    const ran = await fio(
      file,
      '--readonly',
      '--rw=randread',
      '--bs=4k',
      '--iodepth=1',
      '--time_based',
      '--runtime=1500ms',
    );
    expect(ran.status, ran.err).toBe(0);
    expect(fioJob(ran).read.total_ios).toBeGreaterThan(1000);
    // Control: what is measured is the process that serves.
    expect(cpuOf(pid) - before).toBeGreaterThan(50);
    await after(100);
    const idle = cpuOf(pid);
    await after(1000);
    expect(cpuOf(pid) - idle).toBeLessThanOrEqual(20);
  });
});

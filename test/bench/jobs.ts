/** What is measured, by fio: direct and asynchronous I/O of one depth. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { tool } from './peers.ts';

const MIB = 2 ** 20;

export interface Job {
  readonly name: string;
  readonly rw: 'read' | 'write' | 'randread' | 'randwrite';
  readonly bs: string;
  readonly depth: number;
  readonly unit: 'MB/s' | 'k IOPS';
  /** Every block of this range once, instead of as many as there is time for. */
  readonly once: { readonly at: number; readonly length: number } | null;
}

const job = (name: string, rw: Job['rw'], depth: number, once: Job['once'] = null): Job =>
  rw === 'read' || rw === 'write'
    ? { name, rw, bs: '1M', depth, unit: 'MB/s', once }
    : { name, rw, bs: '4k', depth, unit: 'k IOPS', once };

export const READS: readonly Job[] = [
  job('seq read QD1', 'read', 1),
  job('seq read QD8', 'read', 8),
  job('rand read QD1', 'randread', 1),
  job('rand read QD32', 'randread', 32),
];
export const WRITES: readonly Job[] = [
  job('seq write QD1', 'write', 1),
  job('seq write QD8', 'write', 8),
  job('rand write QD1', 'randwrite', 1),
  job('rand write QD32', 'randwrite', 32),
];
/** Each on a part of the disk that nobody has written to. */
export const FIRST_WRITES: readonly Job[] = [
  job('first seq write QD1', 'write', 1, { at: 0, length: 128 * MIB }),
  job('first seq write QD8', 'write', 8, { at: 128 * MIB, length: 128 * MIB }),
  job('first rand write QD1', 'randwrite', 1, { at: 256 * MIB, length: 48 * MIB }),
  job('first rand write QD32', 'randwrite', 32, { at: 384 * MIB, length: 96 * MIB }),
];
/** For chains of different depth. */
export const FEW_READS: readonly Job[] = [READS[0]!, READS[3]!];

/** One request at a time is served by what is learnt about the machine: twice as long. */
const range = ({ once, depth, unit }: Job, ms: number): readonly string[] =>
  once === null
    ? ['--time_based', `--runtime=${depth === 1 && unit === 'k IOPS' ? 2 * ms : ms}ms`, '--norandommap']
    : [`--offset=${once.at}`, `--size=${once.length}`];

/** MB/s, or thousands of operations a second. */
export function measure(one: Job, file: string, ms: number): number {
  const { rw, bs, depth, unit } = one;
  const out = tool(
    'timeout',
    '60',
    'fio',
    '--name=b',
    `--filename=${file}`,
    `--rw=${rw}`,
    `--bs=${bs}`,
    `--iodepth=${depth}`,
    '--direct=1',
    '--ioengine=libaio',
    '--output-format=json',
    '--invalidate=0',
    ...range(one, ms),
  );
  const run = (
    JSON.parse(out.slice(out.indexOf('{'))) as { jobs: Record<'read' | 'write', { bw_bytes: number; iops: number }>[] }
  ).jobs[0]!;
  const side = rw.endsWith('read') ? run.read : run.write;
  return unit === 'MB/s' ? side.bw_bytes / 1e6 : side.iops / 1000;
}

const PROVED = 32 * MIB;

/**
 * Writes as the job does, several times where requests can get in each other's way, not measured, and reads it back:
 * what was found wrong; null: nothing, or it does not write.
 */
export function misses({ rw, bs, depth, once }: Job, file: string): string | null {
  if (!rw.endsWith('write')) return null;
  const { status, stderr, stdout } = spawnSync(
    'timeout',
    [
      ...['60', 'fio', '--name=v', `--filename=${file}`, `--rw=${rw}`, `--bs=${bs}`, `--iodepth=${depth}`],
      ...[`--offset=${once?.at ?? 0}`, `--size=${Math.min(PROVED, once?.length ?? PROVED)}`],
      ...[
        '--direct=1',
        '--ioengine=libaio',
        '--verify=crc32c',
        '--verify_fatal=1',
        '--do_verify=1',
        '--verify_state_save=0',
        `--loops=${depth === 1 ? 1 : 4}`,
      ],
    ],
    { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] },
  );
  if (status === 0) return null;
  return `${stderr}${stdout}`.split('\n').find(line => /verify|error/.test(line)) ?? `fio ended with ${status}`;
}

/**
 * Takes as much memory as first writes do and gives it back. Where the host of a virtual machine takes free memory away, pages
 * that were not used for seconds come back at a tenth of the speed of a write, now for the one and now for the other.
 */
export function warmMemory(folder: string, mib = 768): void {
  const file = path.join(folder, 'warm');
  tool('dd', 'if=/dev/zero', `of=${file}`, 'bs=1M', `count=${mib}`, 'status=none');
  fs.rmSync(file);
}

/** Reads or writes the whole file, not measured. */
export function prepare(how: 'warm' | 'full', file: string): void {
  if (how === 'warm') tool('dd', `if=${file}`, 'of=/dev/null', 'bs=1M', 'iflag=direct');
  else tool('fio', '--name=f', `--filename=${file}`, '--rw=write', '--bs=1M', '--direct=1', '--ioengine=psync');
}

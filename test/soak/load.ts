/** A load by fio whose every block is verified, and what the kernel's queue looked like meanwhile. */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Stage } from './stage.ts';

export const LOAD_SIZE = 256 * 2 ** 20;
export const DEPTH = 16;

export interface LoadResult {
  readonly operations: number;
  readonly error: number;
  /** Requests that each of its jobs had under way in most of the time. */
  readonly depth: number;
  /** Longest completion of one request, in ms. */
  readonly worst: number;
  /** 99 of 100 requests took at most so long, in ms. */
  readonly p99: number;
  /** What fio said about errors and mismatches; '' when there were none. */
  readonly told: string;
}

export interface Load {
  readonly done: Promise<LoadResult>;
  readonly over: boolean;
  /** Ends it early; what it did counts. */
  stop(): void;
}

export const onFile = (file: string): readonly string[] => [`--filename=${file}`, '--direct=1', '--ioengine=libaio'];

/**
 * Random reads and writes of 4–64 KiB at depth 16. `target`: flags that name the file, or the engine and address, and
 * may put others in place of these.
 */
export function startLoad(folder: string, target: readonly string[], stop: readonly string[], seed = 1): Load {
  const args = [
    '--name=soak',
    '--rw=randrw',
    '--bsrange=4k-64k',
    '--blockalign=4k',
    `--iodepth=${DEPTH}`,
    `--size=${LOAD_SIZE}`,
    `--randseed=${seed}`,
    '--verify=crc32c',
    '--verify_fatal=1',
    '--verify_backlog=1024',
    '--norandommap=0',
    '--output-format=json',
    ...target,
    ...stop,
  ];
  const child = spawn('fio', args, { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
  let over = false;
  const done = result(child).finally(() => {
    over = true;
  });
  done.catch(() => undefined);
  return {
    done,
    get over() {
      return over;
    },
    stop: () => void child.kill('SIGINT'),
  };
}

/** A pass over the disk is some 16,000 operations: writes of 34 KiB on average and the reads that verify them. */
export const passes = (operations: number): readonly string[] => [`--loops=${Math.ceil(operations / 15_000)}`];

interface Side {
  readonly total_ios: number;
  readonly clat_ns: { readonly max: number; readonly percentile?: Readonly<Record<string, number>> };
}
interface Job {
  readonly error: number;
  /** Share of the time in %, by the depth from which on it counts: 1, 2, 4, 8, 16, …; the last ends in `>=`. */
  readonly iodepth_level: Readonly<Record<string, number>>;
  readonly read: Side;
  readonly write: Side;
}

async function result(child: ChildProcess): Promise<LoadResult> {
  let out = '';
  let told = '';
  child.stdout!.setEncoding('utf8').on('data', part => {
    out += part;
  });
  child.stderr!.setEncoding('utf8').on('data', part => {
    told += part;
  });
  await new Promise<void>((resolve, reject) => {
    child.once('error', reject).once('close', () => resolve());
  });
  // Stopped by a signal it reports all the same.
  if (!out.includes('"jobs"')) throw new Error(`fio: ${told || out}`);
  const { error, read, write, iodepth_level } = (JSON.parse(out.slice(out.indexOf('{'))) as { jobs: [Job] }).jobs[0];
  const most = (of: (side: Side) => number): number => Math.max(of(read), of(write)) / 1e6;
  return {
    operations: read.total_ios + write.total_ios,
    error,
    depth: Number(Object.entries(iodepth_level).find(([, share]) => share > 50)?.[0] ?? 0),
    worst: most(side => side.clat_ns.max),
    p99: most(side => side.clat_ns.percentile?.['99.000000'] ?? 0),
    told: told
      .split('\n')
      .filter(line => /verify|error/.test(line))
      .slice(0, 3)
      .join(' '),
  };
}

export interface Depth {
  readonly deepest: number;
  /** Share of the samples in which the kernel waited for at least `DEPTH` requests. */
  readonly full: number;
}

/** Samples how many requests the kernel waits for, until it is stopped. */
export function watchDepth(stage: Stage): { stop(): Depth } {
  let [deepest, samples, full] = [0, 0, 0];
  const timer = setInterval(() => {
    const waiting = stage.waiting();
    deepest = Math.max(deepest, waiting);
    samples++;
    if (waiting >= DEPTH) full++;
  }, 1);
  return {
    stop() {
      clearInterval(timer);
      return { deepest, full: samples === 0 ? 0 : full / samples };
    },
  };
}

/** `0 errors, 0 mismatches`, or what fio said instead. */
export const troubles = ({ error, told }: LoadResult): string =>
  error === 0 && told === '' ? '0 errors, 0 mismatches' : `error ${error}: ${told}`;

export const deep = ({ deepest, full }: Depth): string => `depth ${deepest} (full in ${Math.round(full * 100)} %)`;

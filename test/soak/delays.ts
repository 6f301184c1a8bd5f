/**
 * How long a worker lets others wait, measured inside it (see `hooks.ts`). Two clocks:
 *
 * - *answers*: from the moment a request has been read from the kernel to the moment its answer is written.
 * - *loop*: how late a timer of 1 ms comes, without the time in which the serving thread was blocked in a read of the
 *   device: it does so when nothing is pending, and whoever wants it then wakes it by a request.
 */
import fs from 'node:fs';
import { createHistogram } from 'node:perf_hooks';

const FUSE = 3;
const OPCODE_AT = 4;
const UNIQUE_AT = 8;
/** READ and WRITE: the requests of a guest. */
const IO = new Set([15, 16]);

export interface Delays {
  readonly answers: Percentiles;
  readonly loop: Percentiles;
}
/** In ms. */
export interface Percentiles {
  readonly count: number;
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

type Histogram = ReturnType<typeof createHistogram>;
const percentiles = (of: Histogram): Percentiles => ({
  count: of.count,
  p50: of.percentile(50) / 1e3,
  p99: of.percentile(99) / 1e3,
  max: of.count === 0 ? 0 : of.max / 1e3,
});
const record = (into: Histogram, ms: number): void => into.record(Math.max(1, Math.round(ms * 1000)));

/** Measures until the process ends by itself, and writes the outcome to `file` then. */
export function measureDelays(file: string): void {
  const answers = createHistogram();
  const loop = createHistogram();
  const began = new Map<string, number>();
  /** Time blocked in reads of the device. */
  let rest = 0;

  const readAt = (bytes: Uint8Array, got: number): void => {
    const now = performance.now();
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    if (got >= 40 && IO.has(view.getUint32(OPCODE_AT, true)))
      began.set(String(view.getBigUint64(UNIQUE_AT, true)), now);
  };
  const { readSync, writeSync, read } = fs;
  const access = fs as unknown as Record<string, unknown>;
  access.readSync = (fd: number, into: Uint8Array, offset: number, length: number, at: number | null) => {
    const before = performance.now();
    try {
      const got = readSync(fd, into, offset, length, at);
      if (fd === FUSE) readAt(into, got);
      return got;
    } finally {
      if (fd === FUSE) rest += performance.now() - before;
    }
  };
  access.read = (
    fd: number,
    into: Uint8Array,
    offset: number,
    length: number,
    at: number | null,
    done: (error: NodeJS.ErrnoException | null, got: number, into: Uint8Array) => void,
  ) =>
    read(fd, into, offset, length, at, (error, got, same) => {
      if (fd === FUSE && error === null) readAt(into, got);
      done(error, got, same);
    });
  access.writeSync = (fd: number, from: Uint8Array, offset: number, length: number, at: number | null) => {
    const written = writeSync(fd, from, offset, length, at);
    if (fd !== FUSE) return written;
    const now = performance.now();
    const unique = String(new DataView(from.buffer, from.byteOffset + offset).getBigUint64(UNIQUE_AT, true));
    const since = began.get(unique);
    began.delete(unique);
    if (since !== undefined) record(answers, now - since);
    return written;
  };

  const tick = (): void => {
    const planned = performance.now() + 1;
    const [rested, answered] = [rest, answers.count];
    setTimeout(() => {
      // Only under load: while files are opened and closed others may wait longer.
      if (answers.count > answered) record(loop, performance.now() - planned - (rest - rested));
      tick();
    }, 1).unref();
  };
  tick();
  process.once('exit', () => {
    fs.writeFileSync(file, JSON.stringify({ answers: percentiles(answers), loop: percentiles(loop) } satisfies Delays));
  });
}

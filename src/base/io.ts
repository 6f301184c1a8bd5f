/**
 * All disk I/O goes through here: full reads, full writes, checked offsets.
 *
 * Why: Node writes at the file's cursor, without an error, when the position is a BigInt, NaN, a fraction, negative or
 * missing; and a write on a full disk returns short without an error. Both are silent corruption.
 */
import fs from 'node:fs';
import type { ByteFile, Bytes, Done, Extent } from './contracts.ts';
import { ImageError } from './errors.ts';
import { native } from './native.ts';
import { roundDown, roundUp } from './range.ts';
import { DIRECT_UNIT } from './shared-bytes.ts';

const { O_RDONLY, O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_DIRECT } = fs.constants;

export function checkOffset(at: number, length: number, file: string): void {
  if (!Number.isSafeInteger(at) || at < 0 || !Number.isSafeInteger(at + length)) {
    throw new ImageError('out-of-range', `offset ${at} is not a safe position`, { file });
  }
}

const shortRead = (name: string, at: number, got: number, wanted: number): ImageError =>
  new ImageError('corrupt', `the file ends early: ${got} of ${wanted} bytes`, { file: name, at });

const ioError = (name: string, at: number, cause: unknown): ImageError => {
  const code = (cause as NodeJS.ErrnoException).code ?? 'error';
  const fault = code === 'ENOSPC' || code === 'EDQUOT' ? 'no-space' : code === 'EFBIG' ? 'too-big' : 'io';
  return new ImageError(
    fault,
    fault === 'no-space' ? 'no space left' : `I/O failed (${code})`,
    { file: name, at },
    { cause },
  );
};

/** Fills all of `into`, or throws. */
export function readFullNow(fd: number, into: Uint8Array, at: Bytes, name: string): void {
  checkOffset(at, into.length, name);
  let done = 0;
  try {
    while (done < into.length) {
      const n = fs.readSync(fd, into, done, into.length - done, at + done);
      if (n === 0) throw shortRead(name, at, done, into.length);
      done += n;
    }
  } catch (error) {
    throw error instanceof ImageError ? error : ioError(name, at + done, error);
  }
}

/** A short write is how a full disk shows first; the next attempt brings the error itself, as a rule. */
const nothingWritten = (): Error => Object.assign(new Error('nothing written'), { code: 'ENOSPC' });

/** Writes all of `from`, or throws 'no-space', 'too-big' or 'io'. */
export function writeFullNow(fd: number, from: Uint8Array, at: Bytes, name: string): void {
  checkOffset(at, from.length, name);
  let done = 0;
  try {
    while (done < from.length) {
      const n = fs.writeSync(fd, from, done, from.length - done, at + done);
      if (n === 0) throw nothingWritten();
      done += n;
    }
  } catch (error) {
    throw ioError(name, at + done, error);
  }
}

const writeSome = (fd: number, from: Uint8Array, offset: number, at: number): Promise<number> =>
  new Promise((resolve, reject) => {
    fs.write(fd, from, offset, from.length - offset, at + offset, (error, n) => (error ? reject(error) : resolve(n)));
  });

/** As `writeFullNow`, on a pool thread. */
async function writeFull(fd: number, from: Uint8Array, at: Bytes, name: string): Promise<void> {
  checkOffset(at, from.length, name);
  let done = 0;
  try {
    while (done < from.length) {
      const n = await writeSome(fd, from, done, at);
      if (n === 0) throw nothingWritten();
      done += n;
    }
  } catch (error) {
    throw ioError(name, at + done, error);
  }
}

const readSome = (fd: number, into: Uint8Array, offset: number, at: number): Promise<number> =>
  new Promise((resolve, reject) => {
    fs.read(fd, into, offset, into.length - offset, at + offset, (error, n) => (error ? reject(error) : resolve(n)));
  });

/** As `readFullNow`, on a pool thread. */
async function readFull(fd: number, into: Uint8Array, at: Bytes, name: string): Promise<void> {
  checkOffset(at, into.length, name);
  let done = 0;
  try {
    while (done < into.length) {
      const n = await readSome(fd, into, done, at);
      if (n === 0) throw shortRead(name, at, done, into.length);
      done += n;
    }
  } catch (error) {
    throw error instanceof ImageError ? error : ioError(name, at + done, error);
  }
}

export function syncData(fd: number, name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    fs.fdatasync(fd, error => (error ? reject(ioError(name, 0, error)) : resolve()));
  });
}

export type OpenMode = 'read' | 'write' | 'create';

/** Length of a block device, which `fstat` gives as 0: the last readable byte, found by doubling and halving. */
function deviceSize(fd: number, name: string): Bytes {
  const probe = new Uint8Array(1);
  const readable = (at: number): boolean => {
    try {
      return fs.readSync(fd, probe, 0, 1, at) === 1;
    } catch (error) {
      throw ioError(name, at, error);
    }
  };
  if (!readable(0)) return 0;
  let low = 0;
  let high = 512;
  while (high < 2 ** 52 && readable(high)) {
    low = high;
    high *= 2;
  }
  while (high - low > 1) {
    const middle = low + Math.floor((high - low) / 2);
    if (readable(middle)) low = middle;
    else high = middle;
  }
  return high;
}

/** How long a read from memory may take, in ms. */
const patience = (length: number): number => 0.2 + length / 1_000_000;
/** So many reads go through the pool after one that had to wait. */
const COLD_READS = 64;
/** Less is not worth a way to the device of its own. */
const LEAST_DIRECT: Bytes = 256 * 1024;

/** Magic number of tmpfs (statfs(2)). */
const TMPFS = 0x0102_1994;

/** A second descriptor of the file, for transfers around the page cache; null: its file system has none, or is nothing but that. */
function openDirect(fd: number): number | null {
  const path = `/proc/self/fd/${fd}`;
  try {
    return fs.statfsSync(path).type === TMPFS ? null : fs.openSync(path, O_RDWR | O_DIRECT);
  } catch {
    return null;
  }
}

/** The device wants other places or lengths than DIRECT_UNIT gives. */
const isInvalid = (error: unknown): boolean =>
  error instanceof ImageError && (error.cause as NodeJS.ErrnoException | undefined)?.code === 'EINVAL';

interface Run {
  readonly at: Bytes;
  readonly end: Bytes;
  readonly kind: Extent['kind'];
}
const NO_RUN: Run = { at: 0, end: 0, kind: 'data' };
const NO_RUNS = [NO_RUN, NO_RUN] as const;
const isIn = (run: Run, at: Bytes): boolean => at >= run.at && at < run.end;

/**
 * A local file or block device. Reads are done at once while the page cache answers; when one had to wait for the
 * device, the next ones go through the thread pool, so that a cold disk does not hold up the caller's other work: all of
 * them, or with `koffi`, where the file system can tell, those that the page cache cannot answer.
 */
export class LocalFile implements ByteFile {
  readonly name: string;
  readonly fd: number;
  #size: Bytes;
  #cold = 0;
  /** Whether its file system says what is in memory: tmpfs and those of a network do not. */
  #tells = true;
  #open = true;
  /** The last write that was handed to the pool. */
  #aside: Promise<void> = Promise.resolve();
  /** For transfers around the page cache; null: none. */
  #direct: number | null = null;
  #isDirect = true;
  /** The runs of data or hole that were asked for last: programs that copy ask where one ends and the next one begins, in turns. */
  #runs: readonly [Run, Run] = NO_RUNS;

  constructor(fd: number, name: string, size: Bytes) {
    this.fd = fd;
    this.name = name;
    this.#size = size;
  }

  get size(): Bytes {
    return this.#size;
  }

  /** By inode, length and time of the last write. */
  get version(): string {
    const { ino, size, mtimeNs } = fs.fstatSync(this.fd, { bigint: true });
    return `${ino} ${size} ${mtimeNs}`;
  }

  read(into: Uint8Array, at: Bytes): Done {
    if (!this.#open) throw new ImageError('io', 'the file is closed', { file: this.name, at });
    if (at + into.length > this.#size) throw shortRead(this.name, at, Math.max(0, this.#size - at), into.length);
    if (this.#suits(into, at)) return this.#around(fd => readFull(fd, into, at, this.name));
    if (this.#cold > 0) {
      // Slow may also have been the processor: what is in memory is still read at once, where that can be told.
      const got = this.#tells ? (native()?.readNow(this.fd, into, at) ?? null) : null;
      this.#tells = got !== null;
      if (got === into.length) {
        this.#cold--;
        return;
      }
      this.#cold = got === null ? this.#cold - 1 : COLD_READS;
      return readFull(this.fd, into, at, this.name);
    }
    const before = performance.now();
    readFullNow(this.fd, into, at, this.name);
    if (performance.now() - before > patience(into.length)) this.#cold = COLD_READS;
  }

  splice(pipe: number, at: Bytes, length: Bytes): Bytes {
    if (!this.#open || this.#cold > 0 || this.#direct !== null || at + length > this.#size) return 0;
    const before = performance.now();
    const done = native()!.splice(this.fd, at, pipe, length);
    if (performance.now() - before > patience(length)) this.#cold = COLD_READS;
    return done;
  }

  extent(at: Bytes, limit: Bytes): Extent {
    const [last, before] = this.#runs;
    if (!isIn(last, at)) this.#runs = [isIn(before, at) ? before : this.#runAt(at), last];
    const run = this.#runs[0];
    return { kind: run.kind, length: Math.min(limit, run.end - at) };
  }

  #runAt(at: Bytes): Run {
    const whole = { at, end: Math.max(at + 1, this.#size), kind: 'data' } as const;
    const holes = native();
    if (holes === null) return whole;
    const { kind, end } = this.#runs[0];
    const data = kind === 'zero' && end === at && at < this.#size ? at : holes.seek(this.fd, at, 'data');
    if (data === 'unknown') return whole;
    if (data === null) return { ...whole, kind: 'zero' };
    if (data > at) return { at, end: data, kind: 'zero' };
    const hole = holes.seek(this.fd, at, 'hole');
    return hole === null || hole === 'unknown' ? whole : { at, end: Math.max(at + 1, hole), kind: 'data' };
  }

  write(from: Uint8Array, at: Bytes): void {
    writeFullNow(this.fd, from, at, this.name);
    this.#runs = NO_RUNS;
    this.#size = Math.max(this.#size, at + from.length);
  }

  /**
   * As `write`, on a pool thread: the caller goes on meanwhile. One at a time through the page cache: the kernel lets one thread
   * write to a file, and the others would spin on the processors until it is done.
   */
  async writeAside(from: Uint8Array, at: Bytes): Promise<void> {
    const [first, last] = this.#directPart(from, at);
    if (first > 0) await this.#writeCached(from.subarray(0, first), at);
    if (last > first) {
      const part = from.subarray(first, last);
      // Into a hole only one thread writes at a time, and nobody reads meanwhile. What cannot be had is told of by the write.
      native()!.allocate(this.fd, at + first, part.length);
      await this.#around(fd => writeFull(fd, part, at + first, this.name));
    }
    if (last < from.length) await this.#writeCached(from.subarray(last), at + last);
    this.#runs = NO_RUNS;
    this.#size = Math.max(this.#size, at + from.length);
  }

  async #writeCached(from: Uint8Array, at: Bytes): Promise<void> {
    const written = this.#aside.then(() => writeFull(this.fd, from, at, this.name));
    this.#aside = written.catch(() => {});
    await written;
  }

  /** The part of a write that can go around the page cache, from where to where; when there is none both are its length. */
  #directPart(from: Uint8Array, at: Bytes): readonly [first: Bytes, last: Bytes] {
    const first = roundUp(at, DIRECT_UNIT) - at;
    const last = roundDown(at + from.length, DIRECT_UNIT) - at;
    if (last - first < LEAST_DIRECT || !this.#suits(from.subarray(first, last), at + first))
      return [from.length, from.length];
    return [first, last];
  }

  /**
   * From now on long pieces from `deviceBytes` go to the device, and come from it, around the page cache, where the file
   * system can: they leave no pages behind that would have to be found, filled and written later, and what is read is what
   * the device holds.
   */
  bypassCache(): void {
    if (native() !== null) this.#direct ??= openDirect(this.fd);
  }

  #suits(bytes: Uint8Array, at: Bytes): boolean {
    if (this.#direct === null || !this.#isDirect || bytes.length < LEAST_DIRECT) return false;
    return at % DIRECT_UNIT === 0 && bytes.length % DIRECT_UNIT === 0 && native()!.address(bytes) % DIRECT_UNIT === 0;
  }

  async #around(transfer: (fd: number) => Promise<void>): Promise<void> {
    try {
      await transfer(this.#direct!);
    } catch (error) {
      if (!isInvalid(error)) throw error;
      this.#isDirect = false;
      await transfer(this.fd);
    }
  }

  async truncate(size: Bytes): Promise<void> {
    checkOffset(size, 0, this.name);
    try {
      fs.ftruncateSync(this.fd, size);
    } catch (error) {
      throw ioError(this.name, size, error);
    }
    this.#size = size;
    this.#runs = NO_RUNS;
  }

  sync(): Promise<void> {
    return syncData(this.fd, this.name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    if (this.#direct !== null) fs.closeSync(this.#direct);
    fs.closeSync(this.fd);
  }
}

/** Less is written in less time than it takes to hand it over. */
const ASIDE: Bytes = 64 * 1024;

/** The file, written to on pool threads. */
export const writtenAside = (file: LocalFile): ByteFile => ({
  name: file.name,
  get size() {
    return file.size;
  },
  read: (into, at) => file.read(into, at),
  extent: (at, limit) => file.extent(at, limit),
  write: (from, at) => (from.length < ASIDE ? file.write(from, at) : file.writeAside(from, at)),
  truncate: size => file.truncate(size),
  sync: () => file.sync(),
  [Symbol.asyncDispose]: () => file[Symbol.asyncDispose](),
});

/**
 * Opens a regular file or block device by its path; anything else is refused. `name` is what messages call it.
 * 'create' fails when the file exists. Missing: 'not-found'.
 */
export async function openFile(path: string, mode: OpenMode, name = path): Promise<LocalFile> {
  const flags =
    mode === 'read' ? O_RDONLY | O_NONBLOCK : mode === 'write' ? O_RDWR : O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW;
  let fd: number;
  try {
    fd = fs.openSync(path, flags, 0o600);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR')
      throw new ImageError('not-found', 'no such file', { file: name }, { cause });
    if (code === 'EEXIST') throw new ImageError('exists', 'the file exists already', { file: name }, { cause });
    throw ioError(name, 0, cause);
  }
  try {
    const stat = fs.fstatSync(fd);
    if (stat.isBlockDevice()) return new LocalFile(fd, name, deviceSize(fd, name));
    if (!stat.isFile())
      throw new ImageError('unsupported', 'neither a regular file nor a block device', { file: name });
    return new LocalFile(fd, name, stat.size);
  } catch (error) {
    fs.closeSync(fd);
    throw error;
  }
}

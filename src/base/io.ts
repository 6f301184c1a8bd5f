/** Local files and block devices, opened by their path. */
import fs from 'node:fs';
import type { ByteFile, Bytes, Done, Extent } from './contracts.ts';
import { ImageError } from './errors.ts';
import {
  checkOffset,
  ioError,
  readFull,
  readFullNow,
  shortRead,
  syncData,
  writeFull,
  writeFullNow,
} from './full-io.ts';
import { native } from './native.ts';
import { roundDown, roundUp } from './range.ts';
import { Rooms } from './rooms.ts';
import { DIRECT_UNIT, suitedPart } from './shared-bytes.ts';

const { O_RDONLY, O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_DIRECT } = fs.constants;

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
function openDirect(fd: number, access: number): number | null {
  const path = `/proc/self/fd/${fd}`;
  try {
    return fs.statfsSync(path).type === TMPFS ? null : fs.openSync(path, access | O_DIRECT);
  } catch {
    return null;
  }
}

/** The device wants other places or lengths than DIRECT_UNIT gives. */
const isInvalid = (error: unknown): boolean =>
  error instanceof ImageError && (error.cause as NodeJS.ErrnoException | undefined)?.code === 'EINVAL';

/** For pieces that come from a device in other places than they are wanted at. */
const ROOMS = new Rooms(8 * 2 ** 20);

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
    if (this.#goesAround(into)) return this.#readAround(into, at);
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
   * From now on long pieces from `deviceBytes` go to the device, and all long ones come from it, around the page cache, where
   * the file system can: they leave no pages behind that would have to be found, filled and written later, and what is read is
   * what the device holds.
   */
  bypassCache(access: 'read' | 'write' = 'write'): void {
    if (native() !== null) this.#direct ??= openDirect(this.fd, access === 'read' ? O_RDONLY : O_RDWR);
  }

  #goesAround(bytes: Uint8Array): boolean {
    return this.#direct !== null && this.#isDirect && bytes.length >= LEAST_DIRECT;
  }

  /** What does not suit the device comes through memory that does. */
  async #readAround(into: Uint8Array, at: Bytes): Promise<void> {
    if (this.#suits(into, at)) return this.#around(fd => readFull(fd, into, at, this.name));
    const before = at % DIRECT_UNIT;
    const length = roundUp(before + into.length, DIRECT_UNIT);
    await ROOMS.lend(length + DIRECT_UNIT, async room => {
      const suited = suitedPart(room, length);
      await this.#around(fd => readFull(fd, suited, at - before, this.name, before + into.length));
      into.set(suited.subarray(before, before + into.length));
    });
  }

  #suits(bytes: Uint8Array, at: Bytes): boolean {
    if (!this.#goesAround(bytes)) return false;
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

/** Verify: every image file by itself, then every chain by reading it. A problem is an answer, never the end. */
import type { Bytes, Disk, Image, Problem, VerifyRun } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import type { Repository, RestorePoint } from '../chain/point.ts';
import { dataWindows, inLanes, readSparse, type Watch } from './sparse.ts';

export interface PointProblem extends Problem {
  readonly set: string;
  readonly point: string;
}

export interface VerifySpec extends Watch {
  readonly repository: Repository;
  /** Files that should be backups, by their names, and are none that anything knows. */
  readonly unread?: readonly string[];
  /** Only the points that are wanted. */
  wanted(point: RestorePoint): boolean;
  readonly level: 1 | 2 | 3;
  openImage(file: string): Promise<Image>;
  fileSize(file: string): Bytes;
  found(problem: PointProblem): void;
}

export interface VerifyResult {
  /** Units checked: blocks, records, tables, each as its format counts them. */
  readonly checked: number;
  readonly bytes: Bytes;
  readonly problems: readonly PointProblem[];
  /** Problems beyond the ones listed. */
  readonly omitted: number;
  /** Points whose blocks were not looked into, for want of their key. */
  readonly locked: readonly RestorePoint[];
}

const WINDOW = 2 ** 20;
const LANES = 4;
/** A window that fails is read again in pieces of this size, so that what is good in it is not called bad. */
const PIECE = 65_536;
const LISTED = 10_000;

interface Findings {
  readonly problems: readonly PointProblem[];
  omitted(): number;
  add(problem: PointProblem): void;
}

/** The same problem, met by the file's own check and again by reading the chain, counts once. */
function findings(tell: (problem: PointProblem) => void): Findings {
  const seen = new Set<string>();
  const problems: PointProblem[] = [];
  let omitted = 0;
  return {
    problems,
    omitted: () => omitted,
    add(problem) {
      const { fault, file, offset, message } = problem;
      const key = [fault, file, offset, offset === 0 ? message : ''].join('\0');
      if (seen.has(key)) return;
      if (problems.length >= LISTED) {
        omitted++;
        return;
      }
      seen.add(key);
      problems.push(problem);
      tell(problem);
    },
  };
}

function problemOf(error: unknown, point: RestorePoint, disk?: string): PointProblem {
  if (!(error instanceof ImageError)) throw error;
  return {
    set: point.set,
    point: point.name,
    ...(disk === undefined ? {} : { disk }),
    fault: error.fault,
    message: error.message,
    file: error.where.file ?? point.file,
    offset: error.where.at ?? 0,
  };
}

/** Throws only the signal's reason, and what is no ImageError. */
export async function verify(spec: VerifySpec): Promise<VerifyResult> {
  const points = spec.repository.sets.flatMap(set => set.points).filter(point => spec.wanted(point));
  const found = findings(spec.found);
  for (const point of points) {
    // A key that was not given is no problem of the backup; one that does not fit is for the user to know.
    if (point.problem !== null && point.problem.fault !== 'locked') found.add(problemOf(point.problem, point));
  }
  for (const file of spec.unread ?? []) {
    const message = 'nothing in it is known: what it held is not among the restore points';
    found.add({ set: '', point: '', fault: 'not-this-format', message, file, offset: 0 });
  }
  const files = await verifyFiles(spec, points, found.add);
  const chains = spec.level < 3 ? { checked: 0, bytes: 0 } : await readChains(spec, points, files, found.add);
  return {
    checked: files.checked + chains.checked,
    bytes: files.bytes + chains.bytes,
    problems: found.problems,
    omitted: found.omitted(),
    locked: points.filter(point => point.problem?.fault === 'locked'),
  };
}

interface FilesChecked {
  readonly checked: number;
  readonly bytes: Bytes;
  /** Files whose format has something to check by itself. */
  readonly own: ReadonlySet<string>;
  /** Those of them of which all was read. */
  readonly whole: ReadonlySet<string>;
}

async function verifyFiles(
  spec: VerifySpec,
  points: readonly RestorePoint[],
  add: (problem: PointProblem) => void,
): Promise<FilesChecked> {
  const owners = new Map<string, RestorePoint>();
  for (const point of points) for (const file of point.files) if (!owners.has(file)) owners.set(file, point);
  // The newest point that ends at a file speaks for it, before points that merely read it.
  for (const point of points) owners.set(point.file, point);
  const total = [...owners.keys()].reduce((sum, file) => sum + spec.fileSize(file), 0);
  const own = new Set<string>();
  const whole = new Set<string>();
  let before = 0;
  let checked = 0;
  let bytes = 0;
  for (const [file, point] of owners) {
    spec.signal.throwIfAborted();
    const size = spec.fileSize(file);
    const run: VerifyRun = {
      level: point.state === 'locked' ? (Math.min(spec.level, 2) as 1 | 2) : spec.level,
      found: problem => add({ ...problem, set: point.set, point: point.name }),
      progress: (done, all) => spec.progress(before + (all > 0 ? (size * done) / all : 0), total),
      signal: spec.signal,
    };
    try {
      await using image = await spec.openImage(file);
      const result = await image.verify?.(run);
      if (result !== undefined) {
        own.add(file);
        if (result.whole === true) whole.add(file);
        checked += result.checked;
        bytes += result.bytes;
      }
    } catch (error) {
      if (spec.signal.aborted) throw error;
      add(problemOf(error, point));
    }
    before += size;
  }
  return { checked, bytes, own, whole };
}

/**
 * The points to read as a guest would. None whose files were read by their own checks already. Where nothing checks the
 * files by themselves, each one; else the last of every run:
 * reading it reads what all before it share, and the files' own checks cover the rest.
 */
function pointsToRead(
  repository: Repository,
  points: readonly RestorePoint[],
  { own, whole }: FilesChecked,
): readonly RestorePoint[] {
  const last = new Set<RestorePoint>();
  for (const { points: all } of repository.sets) {
    const mine = all.filter(point => points.includes(point) && point.state === 'ok');
    for (const [i, point] of mine.entries()) {
      if (point.files.every(file => whole.has(file))) continue;
      const next = mine[i + 1];
      const checked = point.files.every(file => own.has(file));
      if (!checked || next === undefined || next.type === 'full') last.add(point);
    }
  }
  return points.filter(point => last.has(point));
}

async function readChains(
  spec: VerifySpec,
  points: readonly RestorePoint[],
  files: FilesChecked,
  add: (problem: PointProblem) => void,
): Promise<{ checked: number; bytes: Bytes }> {
  const due = pointsToRead(spec.repository, points, files);
  const total = due.flatMap(point => point.disks).reduce((sum, disk) => sum + disk.size, 0);
  let before = 0;
  let checked = 0;
  let bytes = 0;
  for (const point of due) {
    for (const [number, { name, size }] of point.disks.entries()) {
      try {
        await using disk = await point.openDisk(number);
        const watch: Watch = { signal: spec.signal, progress: done => spec.progress(before + done, total) };
        const read = await readDisk(disk, watch, error => add(problemOf(error, point, name)));
        bytes += read;
        checked += Math.ceil(read / PIECE);
      } catch (error) {
        if (spec.signal.aborted) throw error;
        add(problemOf(error, point, name));
      }
      before += size;
    }
  }
  return { checked, bytes };
}

/** Reads every data extent. Returns how many bytes could be read. */
async function readDisk(disk: Disk, watch: Watch, failed: (error: unknown) => void): Promise<Bytes> {
  const buffers = Array.from({ length: LANES }, () => new Uint8Array(Math.min(WINDOW, disk.size)));
  let bytes = 0;
  await inLanes(
    dataWindows([disk], WINDOW, 0, disk.size, watch.signal),
    LANES,
    async ({ at, length }, lane) => {
      const read = await readPieces(disk, buffers[lane]!.subarray(0, length), at, failed);
      return { read, end: at + length };
    },
    ({ read, end }) => {
      bytes += read;
      watch.progress(end, disk.size);
    },
  );
  return bytes;
}

async function readPieces(disk: Disk, into: Uint8Array, at: Bytes, failed: (error: unknown) => void): Promise<Bytes> {
  try {
    return await readSparse(disk, into, at);
  } catch (error) {
    if (into.length <= PIECE) {
      failed(error);
      return 0;
    }
  }
  let bytes = 0;
  for (let done = 0; done < into.length; done += PIECE) {
    bytes += await readPieces(disk, into.subarray(done, done + PIECE), at + done, failed);
  }
  return bytes;
}

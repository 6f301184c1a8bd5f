/**
 * Every version of one file over the points of a set. What was read to find it in one point (its footprint: the blocks of
 * metadata on the way, and its own ranges) tells for the next point, by the layers between them alone, that it is the same.
 */
import { ImageError } from '../base/errors.ts';
import type { RestorePoint } from '../chain/point.ts';
import { changesOf, type DiskStretch, sameAttributes, sameContent, unchanged } from './compare.ts';
import type { FileContent } from './content.ts';
import type { Parser } from './parser.ts';
import { nodeAt } from './path.ts';
import { openPointFiles, type PointFiles, type PointNode } from './point-files.ts';
import { STORED } from './protocol.ts';

export interface FileVersion {
  readonly first: RestorePoint;
  last: RestorePoint;
  /** How many points have it. */
  points: number;
  /** null: the file is not there, or cannot be read. */
  readonly node: PointNode | null;
  readonly problem: ImageError | null;
  /** Against the version before. */
  readonly change: 'first' | 'content' | 'attributes' | 'absent' | 'appeared' | 'unreadable';
}

interface Sight {
  readonly point: RestorePoint;
  readonly files: PointFiles | null;
  readonly node: PointNode | null;
  readonly content: FileContent | null;
  readonly problem: ImageError | null;
  /** null: not known, because something could not be read. */
  readonly footprint: readonly DiskStretch[] | null;
}

const PART = 1_048_576;

/** Ranges of the file itself. What is packed is read once, so that the parser shows from where. */
async function rangesOf(content: FileContent, signal: AbortSignal): Promise<DiskStretch[]> {
  const found: DiskStretch[] = [];
  for (let at = 0; at < content.size; ) {
    const { length, disk, at: place } = await content.rangeAt(at);
    if (disk >= 0) found.push({ disk, at: place, length });
    for (let done = 0; disk === STORED.packed && done < length; done += PART) {
      signal.throwIfAborted();
      await content.read(new Uint8Array(Math.min(PART, length - done)), at + done);
    }
    at += length;
  }
  return found;
}

async function look(parser: Parser, point: RestorePoint, path: readonly string[], signal: AbortSignal): Promise<Sight> {
  const seen = new Map<string, DiskStretch>();
  let files: PointFiles | null = null;
  const nothing = { point, node: null, content: null };
  try {
    files = await openPointFiles(parser, {
      disks: point.disks,
      openDisk: index => point.openDisk(index),
      seen: (disk, at, length) => void seen.set(`${disk} ${at} ${length}`, { disk, at, length }),
    });
    const node = await nodeAt(files, path, true);
    const content = node.kind === 'file' ? await node.open() : null;
    const own = content === null ? [] : await rangesOf(content, signal);
    return { point, files, node, content, problem: null, footprint: [...seen.values(), ...own] };
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    signal.throwIfAborted();
    const volume = files?.volumes.some(({ name }) => name === path[0]) ?? false;
    // A volume that is not there may be one that cannot be read.
    const missing = error.fault === 'not-found' && (volume || files?.notes.length === 0);
    return { ...nothing, files, problem: missing ? null : error, footprint: missing ? [...seen.values()] : null };
  }
}

async function changeOf(before: Sight | null, now: Sight, signal: AbortSignal): Promise<FileVersion['change'] | null> {
  if (now.problem !== null) return 'unreadable';
  if (before === null) return now.node === null ? 'absent' : 'first';
  if (now.node === null) return before.node === null && before.problem === null ? null : 'absent';
  if (before.node === null) return 'appeared';
  if (before.node.kind !== now.node.kind) return 'content';
  if (before.content !== null && now.content !== null) {
    const changes = changesOf(before.point, now.point);
    if (!(await sameContent(before.content, now.content, changes, signal))) return 'content';
  } else if (now.node.kind === 'link' && before.node.kind === 'link' && now.node.target !== before.node.target) {
    return 'content';
  }
  return sameAttributes(before.node, now.node) ? null : 'attributes';
}

export interface HistorySpec {
  readonly parser: Parser;
  /** Oldest first; each can be read. */
  readonly points: readonly RestorePoint[];
  /** `volume`, `folder`, …, `file`. */
  readonly path: readonly string[];
  readonly signal: AbortSignal;
  progress(points: number): void;
}

/** Oldest version first. */
export async function historyOf({ parser, points, path, signal, progress }: HistorySpec): Promise<FileVersion[]> {
  const versions: FileVersion[] = [];
  let before: Sight | null = null;
  let shown: RestorePoint | null = null;
  for (const [i, point] of points.entries()) {
    signal.throwIfAborted();
    progress(i);
    const version = versions.at(-1);
    const known: readonly DiskStretch[] | null = before?.footprint ?? null;
    const same =
      version !== undefined && shown !== null && known !== null && shown.disks.length === point.disks.length
        ? await unchanged(changesOf(shown, point), known)
        : false;
    shown = point;
    if (version !== undefined && same) {
      version.last = point;
      version.points++;
      continue;
    }
    const now: Sight = await look(parser, point, path, signal);
    const change = await changeOf(before, now, signal);
    before?.files?.close();
    before = now;
    if (version !== undefined && change === null) {
      version.last = point;
      version.points++;
    } else {
      const { node, problem } = now;
      versions.push({ first: point, last: point, points: 1, node, problem, change: change ?? 'first' });
    }
  }
  before?.files?.close();
  return versions;
}

/**
 * What the kernel has been told and will come back with: node ids, open handles, the outcome of INIT. A process that
 * takes over a mount has nothing else to know them by, so each line is written before the answer that gives it away.
 *
 * Lines are JSON arrays: `["i", connection]`, `["n", id, path]`, `["n", id, path, target]`, `["o", fh, id, flags, unique]`, `["c", fh]`.
 */
import fs from 'node:fs';
import { ImageError } from '../../base/errors.ts';
import { writeFullNow } from '../../base/full-io.ts';

/** What the kernel and this side agreed on. */
export interface Connection {
  readonly minor: number;
  /** The kernel hands unanswered requests to the next process (6.9 and newer). */
  readonly resend: boolean;
  readonly maxIo: number;
}

export type Line =
  | readonly ['i', Connection]
  | readonly ['n', id: number, path: string, target?: string]
  | readonly ['o', fh: number, id: number, flags: number, unique: string]
  | readonly ['c', fh: number];

export interface Journal {
  /** Keeps a line for the next commit. */
  note(line: Line): void;
  /** Writes the kept lines. On an error they stay kept. */
  commit(): void;
  /** Lines written since the file was last made anew. */
  readonly length: number;
  /** Puts `lines` in place of everything before, in one step. */
  rewrite(lines: readonly Line[]): void;
  close(): void;
}

/** For a mount that no other process can take over. */
export const noJournal: Journal = { note() {}, commit() {}, length: 0, rewrite() {}, close() {} };

const text = (lines: readonly Line[]): string => lines.map(line => `${JSON.stringify(line)}\n`).join('');

/** Number of bytes written. A failed write leaves nothing that the next one at the same place does not replace. */
function writeAt(fd: number, content: string, at: number, path: string): number {
  const bytes = Buffer.from(content);
  writeFullNow(fd, bytes, at, path);
  return bytes.length;
}

/** A journal at `path` that holds `lines`; one that is there stays until this one is written. */
export function createJournal(path: string, lines: readonly Line[] = []): Journal {
  let fd = -1;
  let kept: Line[] = [];
  let length = 0;
  let size = 0;
  const rewrite = (content: readonly Line[]): void => {
    const beside = `${path}.new`;
    const next = fs.openSync(beside, 'w', 0o600);
    try {
      const written = writeAt(next, text(content), 0, path);
      fs.renameSync(beside, path);
      size = written;
    } catch (error) {
      fs.closeSync(next);
      throw error;
    }
    if (fd !== -1) fs.closeSync(fd);
    fd = next;
    length = content.length;
    kept = [];
  };
  rewrite(lines);
  return {
    note: line => {
      kept.push(line);
    },
    commit() {
      if (kept.length === 0) return;
      size += writeAt(fd, text(kept), size, path);
      length += kept.length;
      kept = [];
    },
    get length() {
      return length;
    },
    rewrite,
    close: () => fs.closeSync(fd),
  };
}

/** The lines of a journal. A last line without its end was never answered for and is left out. */
export function readJournal(path: string): Line[] {
  let content: string;
  try {
    content = fs.readFileSync(path, 'utf8');
  } catch (cause) {
    throw new ImageError('not-found', 'there is no record of the mount to go on from', { file: path }, { cause });
  }
  const lines = content.slice(0, content.lastIndexOf('\n') + 1).split('\n');
  lines.pop();
  let at = 0;
  return lines.map(line => {
    try {
      const value: unknown = JSON.parse(line);
      if (!isLine(value)) throw new TypeError('not a line of this file');
      at += Buffer.byteLength(line) + 1;
      return value;
    } catch (cause) {
      throw new ImageError('corrupt', 'the record of the mount is damaged', { file: path, at }, { cause });
    }
  });
}

const isId = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0;

function isLine(value: unknown): value is Line {
  if (!Array.isArray(value)) return false;
  const [kind, a, b, c, d] = value as unknown[];
  if (kind === 'i') return typeof a === 'object' && a !== null && 'resend' in a;
  if (kind === 'n') return isId(a) && typeof b === 'string' && (c === undefined || typeof c === 'string');
  if (kind === 'o') return isId(a) && isId(b) && isId(c) && typeof d === 'string';
  return kind === 'c' && isId(a);
}

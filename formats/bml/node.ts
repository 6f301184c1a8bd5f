/** Nodes of the block tree and their 32-byte entries (section 7). */
import { hash } from 'node:crypto';
import { viewOf } from '../../src/base/struct.ts';
import { ALIGN, PAGE } from './structs.ts';

export const FANOUT = 128;
export const ENTRY = 32;
export const TAG = 12;
export const HOLE = 0;
export const ZERO = 1;
export const DATA = 2;
export const NODE = 4;
const SHORT_FLAG = 0x10;

/** An entry taken out of its node. */
export interface Entry {
  readonly kind: number;
  readonly codec: number;
  readonly short: boolean;
  readonly session: number;
  readonly line: number;
  readonly stored: number;
  readonly hint: number;
  readonly tag: Uint8Array;
}

/** Blocks below one entry of a node at `level`; the root entry of a tree of height h is one of a node at h + 1. */
export const span = (level: number): number => FANOUT ** (level - 1);

/** Smallest height whose root entry covers `blocks`. */
export function heightFor(blocks: number): number {
  let height = 0;
  while (FANOUT ** height < blocks) height++;
  return height;
}

export const kindAt = (view: DataView, at: number): number => view.getUint8(at);
export const lineAt = (view: DataView, at: number): number => view.getUint32(at + 4, true);
export const storedAt = (view: DataView, at: number): number => view.getUint32(at + 8, true);
const hintAt = (view: DataView, at: number): number =>
  view.getUint32(at + 16, true) * 0x1_0000_0000 + view.getUint32(at + 12, true);

export function entryAt(view: DataView, at: number): Entry {
  const codec = view.getUint8(at + 1);
  return {
    kind: kindAt(view, at),
    codec: codec & 15,
    short: (codec & SHORT_FLAG) !== 0,
    session: view.getUint16(at + 2, true),
    line: lineAt(view, at),
    stored: storedAt(view, at),
    hint: hintAt(view, at),
    tag: new Uint8Array(view.buffer, view.byteOffset + at + 20, TAG).slice(),
  };
}

/** `hint` is below 2^53, in two halves, since a 64-bit setter takes only BigInt. */
export function putEntry(view: DataView, at: number, entry: Entry): void {
  view.setUint8(at, entry.kind);
  view.setUint8(at + 1, entry.codec | (entry.short ? SHORT_FLAG : 0));
  view.setUint16(at + 2, entry.session, true);
  view.setUint32(at + 4, entry.line, true);
  view.setUint32(at + 8, entry.stored, true);
  view.setUint32(at + 12, entry.hint % 0x1_0000_0000, true);
  view.setUint32(at + 16, Math.floor(entry.hint / 0x1_0000_0000), true);
  new Uint8Array(view.buffer, view.byteOffset + at + 20, TAG).set(entry.tag);
}

export function putPlain(view: DataView, at: number, kind: typeof HOLE | typeof ZERO): void {
  new Uint8Array(view.buffer, view.byteOffset + at, ENTRY).fill(0);
  view.setUint8(at, kind);
}

export function sameEntry(a: DataView, aAt: number, b: DataView, bAt: number): boolean {
  return (
    Buffer.compare(
      new Uint8Array(a.buffer, a.byteOffset + aAt, ENTRY),
      new Uint8Array(b.buffer, b.byteOffset + bAt, ENTRY),
    ) === 0
  );
}

/** What an entry may say: limits of the tree it lies in. */
export interface Limits {
  /** Lines of the layer table that it may refer to: those up to its node's own layer. */
  readonly lines: number;
  readonly blockSize: number;
}

/** Why the entry of a node at `level` cannot be; null when it is sound. */
export function entryFault(view: DataView, at: number, level: number, limits: Limits): string | null {
  const kind = kindAt(view, at);
  if (kind === HOLE || kind === ZERO) {
    for (let i = 1; i < ENTRY; i++) if (view.getUint8(at + i) !== 0) return 'an empty entry has content';
    return null;
  }
  if (kind !== DATA && kind !== NODE) return `entry of unknown kind ${kind}`;
  if ((kind === DATA) !== (level === 1)) return `entry of kind ${kind} at level ${level}`;
  const flags = view.getUint8(at + 1);
  if ((flags & 15) > 1) return `unknown codec ${flags & 15}`;
  if ((flags & 0xe0) !== 0 || (kind === NODE && flags > 1)) return 'unknown entry flags';
  if (lineAt(view, at) >= limits.lines) return `refers to layer ${lineAt(view, at)} of ${limits.lines}`;
  const stored = storedAt(view, at);
  if (stored === 0 || stored > (kind === NODE ? PAGE : limits.blockSize + 8)) return `stored length ${stored}`;
  const hint = hintAt(view, at);
  if (hint % ALIGN !== 0 || !Number.isSafeInteger(hint)) return `hint ${hint} is not aligned`;
  return null;
}

/** Merkle hash: places are not part of it, so that records can move. */
export function nodeHash(node: Uint8Array): Uint8Array {
  const copy = new Uint8Array(node);
  for (let at = 0; at < copy.length; at += ENTRY) forgetPlace(copy, at);
  return hash('sha256', copy, 'buffer').subarray(0, TAG);
}

/** Zeros what an entry says about where a record lies and, for nodes, which can be packed anew, how it is packed. */
export function forgetPlace(bytes: Uint8Array, at: number): void {
  bytes.fill(0, at + 12, at + 20);
  if (bytes[at] !== NODE) return;
  bytes[at + 1] = 0;
  bytes.fill(0, at + 8, at + 12);
}

export interface NodePage {
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

export const nodePage = (bytes: Uint8Array): NodePage => ({ bytes, view: viewOf(bytes) });

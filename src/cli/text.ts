/** Text for people. Names from backups are data: nothing in them may drive a terminal. */
import type { Bytes } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';

/**
 * C0, DEL, C1; characters that reorder or hide text (bidi marks, embeddings and isolates, zero-width ones, line and
 * paragraph separators, the byte order mark); halves of surrogate pairs.
 */
const UNSAFE = /[\p{Cc}\p{Cs}\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/gu;

const hex = (n: number, digits: number): string => n.toString(16).padStart(digits, '0');

/** `name` with every control, escape and bidi character as `\xNN`, one for each of its UTF-8 bytes. */
export const display = (name: string): string =>
  name.replace(UNSAFE, c => Array.from(new TextEncoder().encode(c), byte => `\\x${hex(byte, 2)}`).join(''));

/** JSON whose strings are the same when parsed, and harmless when a terminal shows them. */
export const displayJson = (value: unknown): string =>
  JSON.stringify(value, null, 2).replace(UNSAFE, c => (c === '\n' ? c : `\\u${hex(c.charCodeAt(0), 4)}`));

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** `512 B`, `1.5 GiB`. */
export function formatSize(bytes: Bytes): string {
  let unit = 0;
  let n = bytes;
  while (n >= 1023.95 && unit < UNITS.length - 1) {
    n /= 1024;
    unit++;
  }
  return unit === 0 ? `${n} B` : `${n.toFixed(1)} ${UNITS[unit]}`;
}

/** A size as people write it: `65536`, `64K`, `64KiB`, `1.5G`; always binary units. 'usage' when it is none. */
export function parseSize(text: string, flag: string): Bytes {
  const match = /^(\d{1,16}(?:\.\d{1,6})?)\s*([KMGTP]?)(?:i?B)?$/i.exec(text.trim());
  const bytes =
    match === null ? Number.NaN : Number(match[1]) * 1024 ** ' KMGTP'.indexOf(match[2]!.toUpperCase() || ' ');
  if (!Number.isSafeInteger(bytes)) {
    throw new ImageError('usage', `${JSON.stringify(text)} is not a size such as 64K or 1G`, { field: flag });
  }
  return bytes;
}

/** `2026-11-02 02:00:00Z`: always UTC, as point names are. */
export const formatTime = (time: Date): string =>
  time
    .toISOString()
    .replace('T', ' ')
    .replace(/\.\d+Z$/, 'Z');

/** `3.2 s`, `4 min 10 s`, `2 h 05 min`. */
export function formatDuration(ms: number): string {
  const s = ms / 1000;
  if (s < 60) return `${s.toFixed(1)} s`;
  const minutes = Math.floor(s / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(s - minutes * 60)} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`;
}

/** Names in one line: all of a few; of many the first three, how many are left out, and the last one. */
export function listNames(names: readonly string[]): string {
  if (names.length <= 8) return names.join(', ');
  return `${names.slice(0, 3).join(', ')}, ${names.length - 4} more, ${names.at(-1)!}`;
}

export interface Column {
  readonly title: string;
  readonly right?: boolean;
}

/** Aligned columns, two spaces apart. Cells are made safe here; they hold one line each. */
export function table(columns: readonly Column[], rows: readonly (readonly string[])[]): string {
  const cells = [columns.map(c => c.title), ...rows.map(row => row.map(display))];
  const widths = columns.map((_, i) => cells.reduce((w, row) => Math.max(w, (row[i] ?? '').length), 0));
  return cells
    .map(row =>
      columns
        .map((c, i) => (c.right ? (row[i] ?? '').padStart(widths[i]!) : (row[i] ?? '').padEnd(widths[i]!)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

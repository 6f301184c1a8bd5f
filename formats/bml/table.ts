/** The layer table (section 9): which layer, session and key salt an entry's line number means. */
import { hash } from 'node:crypto';
import { u64le, viewOf } from '../../src/base/struct.ts';
import { corrupt, hex, tableLine } from './structs.ts';

/** One session of one layer. */
export interface Line {
  readonly layer: Uint8Array;
  /** The layer id in hexadecimal. */
  readonly id: string;
  readonly salt: Uint8Array;
  /** Time of the restore point, ms. */
  readonly time: number;
  readonly session: number;
  /** Objects of this line that the commit's trees refer to; 0: the layer is no longer needed. */
  readonly live: number;
  /** Name of the file it was written to, without folder: a hint. */
  readonly file: string;
}

const NAME_LIMIT = 1024;

export function buildTable(lines: readonly Line[]): { body: Uint8Array; names: number } {
  const names = lines.map(line => Buffer.from(line.file).subarray(0, NAME_LIMIT));
  const area = lines.length * tableLine.size;
  const total = names.reduce((sum, name) => sum + name.length, 0);
  const body = new Uint8Array(area + total);
  const view = new DataView(body.buffer);
  let nameAt = 0;
  for (const [i, line] of lines.entries()) {
    const name = names[i]!;
    tableLine.write(view, i * tableLine.size, {
      ...line,
      nameLength: name.length,
      nameAt,
      reserved: new Uint8Array(8),
    });
    body.set(name, area + nameAt);
    nameAt += name.length;
  }
  return { body, names: total };
}

export const tableHash = (body: Uint8Array): Uint8Array => hash('sha256', body, 'buffer');

/** The table that was parsed last. Points of a set repeat the lines of the one before, and share what is the same. */
let last: { readonly body: Uint8Array; readonly lines: readonly Line[] } | null = null;

const namesIn = (body: Uint8Array, lines: number): Uint8Array => body.subarray(lines * tableLine.size);

/** The line of the earlier table when all of it but the count is the same. */
function shared(before: { readonly body: Uint8Array; readonly lines: readonly Line[] }, body: Uint8Array, i: number) {
  const line = before.lines[i];
  if (line === undefined) return null;
  const at = i * tableLine.size;
  const equal = (from: number, to: number): boolean =>
    Buffer.compare(before.body.subarray(at + from, at + to), body.subarray(at + from, at + to)) === 0;
  const live = tableLine.offsetOf('live');
  if (!equal(0, live) || !equal(live + 8, tableLine.size)) return null;
  return equal(live, live + 8) ? line : { ...line, live: u64le.read(viewOf(body), at + live) };
}

/** `body` has the length that the commit promises; it is kept. */
export function parseTable(body: Uint8Array, count: number, file: string, at: number): readonly Line[] {
  const names = namesIn(body, count);
  const older = last === null ? null : namesIn(last.body, last.lines.length);
  // Places of names are counted from the first one: those of older lines must be where they were.
  const before = older !== null && Buffer.compare(older, names.subarray(0, older.length)) === 0 ? last : null;
  const lines = Array.from(
    { length: count },
    (_, i) => (before === null ? null : shared(before, body, i)) ?? parseLine(body, i, names, file, at),
  );
  last = { body, lines };
  return lines;
}

function parseLine(body: Uint8Array, i: number, names: Uint8Array, file: string, at: number): Line {
  const line = tableLine.parse(body, i * tableLine.size, file);
  const end = line.nameAt + line.nameLength;
  if (end > names.length || line.nameLength > NAME_LIMIT) {
    throw corrupt(`layer table: line ${i} has its file name outside the table`, file, at);
  }
  return {
    layer: line.layer,
    id: hex(line.layer),
    salt: line.salt,
    time: line.time,
    session: line.session,
    live: line.live,
    file: Buffer.from(names.subarray(line.nameAt, end)).toString('utf8'),
  };
}

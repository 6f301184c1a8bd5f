/** The layer table (section 9): which layer, session and key salt an entry's line number means. */
import { hash } from 'node:crypto';
import { viewOf } from '../../src/base/struct.ts';
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

const namesIn = (body: Uint8Array, lines: number): Uint8Array => body.subarray(lines * tableLine.size);

/** `body` has the length that the commit promises. */
export function parseTable(body: Uint8Array, count: number, file: string, at: number): readonly Line[] {
  const names = namesIn(body, count);
  return Array.from({ length: count }, (_, i) => parseLine(body, i, names, file, at));
}

const [TIME, LIVE] = [tableLine.offsetOf('time'), tableLine.offsetOf('live')];
const [NAME_LENGTH, NAME_AT] = [tableLine.offsetOf('nameLength'), tableLine.offsetOf('nameAt')];
/** High half of the largest number below 2^53. */
const SAFE_HIGH = 0x1f_ffff;

/**
 * The needed lines of which `held` says no: it is asked for the layer id that begins at an offset. Throws what `parseTable`
 * does, and makes no object of a line: a set of a thousand points has half a million of them.
 */
export function lostLines(
  body: Uint8Array,
  count: number,
  file: string,
  at: number,
  held: (view: DataView, at: number) => boolean,
): readonly Line[] {
  const view = viewOf(body);
  const names = namesIn(body, count);
  const lost: Line[] = [];
  for (let i = 0; i < count; i++) {
    const line = i * tableLine.size;
    const [liveLow, liveHigh] = [view.getUint32(line + LIVE, true), view.getUint32(line + LIVE + 4, true)];
    const length = view.getUint16(line + NAME_LENGTH, true);
    const sound =
      view.getUint32(line + TIME + 4, true) <= SAFE_HIGH &&
      liveHigh <= SAFE_HIGH &&
      length <= NAME_LIMIT &&
      view.getUint32(line + NAME_AT, true) + length <= names.length;
    if (!sound || ((liveLow !== 0 || liveHigh !== 0) && !held(view, line))) {
      lost.push(parseLine(body, i, names, file, at));
    }
  }
  return lost;
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

/** The layer table (section 9): which layer, session and key salt an entry's line number means. */
import { hash } from 'node:crypto';
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

/** `body` has the length that the commit promises. */
export function parseTable(body: Uint8Array, count: number, file: string, at: number): Line[] {
  const area = count * tableLine.size;
  return Array.from({ length: count }, (_, i) => {
    const line = tableLine.parse(body, i * tableLine.size, file);
    const end = area + line.nameAt + line.nameLength;
    if (end > body.length || line.nameLength > NAME_LIMIT) {
      throw corrupt(`layer table: line ${i} has its file name outside the table`, file, at);
    }
    return {
      layer: line.layer,
      id: hex(line.layer),
      salt: line.salt,
      time: line.time,
      session: line.session,
      live: line.live,
      file: Buffer.from(body.subarray(area + line.nameAt, end)).toString('utf8'),
    };
  });
}

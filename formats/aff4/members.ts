/** What lies in an archive, by the names that AFF4 gives its members; bevies in tables, since there may be very many. */
import type { Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { lastAtOrBefore } from '../../src/base/range.ts';
import { STORED } from './structs.ts';
import { type Archive, corrupt, type Member, membersOf } from './zip.ts';

/** Members of all streams together, and others: about as many as an image of 8 TiB has. */
const MOST_IN_TABLES = 500_000;
const MOST_NAMED = 10_000;
const FIELDS = 4;

/** Members of one stream and kind, by their numbers: 32 bytes each. */
export class MemberTable {
  /** What stands before the number and behind it in their names. */
  readonly prefix: string;
  readonly suffix: string;
  #rows = new Float64Array(4 * FIELDS);
  #numbers = new Float64Array(0);
  #count = 0;

  constructor(prefix: string, suffix: string) {
    this.prefix = prefix;
    this.suffix = suffix;
  }

  add(number: number, { headerAt, size, crc }: Member): void {
    if ((this.#count + 1) * FIELDS > this.#rows.length) {
      const wider = new Float64Array(this.#rows.length * 2);
      wider.set(this.#rows);
      this.#rows = wider;
    }
    this.#rows.set([number, headerAt, size, crc], this.#count++ * FIELDS);
  }

  /** By number; of two with one number, the later one in the directory is behind the other. Before the first `find`. */
  sort(): void {
    const from = this.#rows;
    const order = Uint32Array.from({ length: this.#count }, (_, i) => i);
    order.sort((a, b) => from[a * FIELDS]! - from[b * FIELDS]! || a - b);
    const sorted = new Float64Array(this.#count * FIELDS);
    this.#numbers = new Float64Array(this.#count);
    for (const [i, row] of order.entries()) {
      sorted.set(from.subarray(row * FIELDS, (row + 1) * FIELDS), i * FIELDS);
      this.#numbers[i] = sorted[i * FIELDS]!;
    }
    this.#rows = sorted;
  }

  find(number: number): Member | null {
    const row = lastAtOrBefore(this.#numbers, number);
    if (row < 0 || this.#numbers[row] !== number) return null;
    const [, headerAt, size, crc] = this.#rows.subarray(row * FIELDS, (row + 1) * FIELDS) as unknown as number[];
    const name = `${this.prefix}${String(number).padStart(8, '0')}${this.suffix}`;
    return { name, method: STORED, crc: crc!, packed: size!, size: size!, headerAt: headerAt! };
  }
}

/** `''` the bevies themselves, `index`, and the block hashes by their algorithm (`md5`, `sha1`, …). */
export type BevyTables = ReadonlyMap<string, MemberTable>;

export interface Members {
  readonly named: ReadonlyMap<string, Member>;
  readonly bevies: ReadonlyMap<string, BevyTables>;
  /** Bytes of all members. */
  readonly total: Bytes;
}

/** Names are percent-encoded, in the archive and in the description, and not always alike. */
export function decoded(name: string): string {
  const plain = name.replace(/^\/+/, '');
  try {
    return decodeURIComponent(plain);
  } catch {
    return plain;
  }
}

/** By name without the volume's own one. More than a sane archive has is 'unsupported'. */
export async function readMembers(archive: Archive): Promise<Members> {
  const file = archive.source.name;
  const named = new Map<string, Member>();
  const bevies = new Map<string, Map<string, MemberTable>>();
  let inTables = 0;
  let total = 0;
  for await (const member of membersOf(archive)) {
    total += member.packed;
    const parts = /^(.*\/)(\d{8})(?:\.(?:blockHash\.)?(index|[a-z0-9]{3,8}))?$/s.exec(member.name);
    if (parts === null) named.set(decoded(member.name), member);
    else {
      const [, prefix, number, kind = ''] = parts as unknown as [string, string, string, string?];
      if (member.method !== STORED) {
        const message = `the bevy "${member.name.slice(0, 100)}" is compressed by the archive, which is not known`;
        throw new ImageError('unsupported', message, { file, at: member.headerAt });
      }
      const stream = decoded(prefix).slice(0, -1);
      const tables = bevies.get(stream) ?? new Map<string, MemberTable>();
      bevies.set(stream, tables);
      const suffix = member.name.slice(prefix.length + 8);
      const table = tables.get(kind) ?? new MemberTable(prefix, suffix);
      if (table.prefix !== prefix || table.suffix !== suffix) {
        throw corrupt(`"${member.name.slice(0, 100)}" is called like another member`, file, member.headerAt);
      }
      tables.set(kind, table);
      table.add(Number(number), member);
      inTables++;
    }
    if (inTables > MOST_IN_TABLES || named.size > MOST_NAMED || bevies.size > MOST_NAMED) {
      const message = `more than ${MOST_IN_TABLES} bevies or ${MOST_NAMED} other members`;
      throw new ImageError('unsupported', message, { file, at: archive.directoryAt });
    }
  }
  for (const tables of bevies.values()) for (const table of tables.values()) table.sort();
  return { named, bevies, total };
}

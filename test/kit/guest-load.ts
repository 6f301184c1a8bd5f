/** Random guest operations, many at once, against a model of the disk. */
import { isZero } from '../../src/base/range.ts';
import { type NbdClient, NO_HOLE } from './nbd.ts';
import type { Random } from './random.ts';

const SECTOR = 512;

export interface LoadSpec {
  readonly client: NbdClient;
  /** What the disk holds, kept up with every write. */
  readonly model: Uint8Array;
  readonly numbers: Random;
  readonly operations: number;
  readonly depth: number;
  /** Operations under way never touch the same stretch of this length. */
  readonly apart: number;
  /** Writes, reads and flushes alone, for drivers that know no more. */
  readonly plain?: boolean;
  /** A planted fault: the write with this number is not sent. */
  readonly lose?: number;
}

export interface Loaded {
  readonly counts: Readonly<Record<string, number>>;
  /** What a read gave and the model did not hold. */
  readonly wrong: readonly string[];
}

interface Range {
  readonly at: number;
  readonly length: number;
}

function differs(got: Uint8Array, model: Uint8Array, at: number, what: string): string | null {
  const want = model.subarray(at, at + got.length);
  if (Buffer.compare(got, want) === 0) return null;
  const first = got.findIndex((byte, i) => byte !== want[i]);
  return `${what} at ${at} + ${got.length}: byte ${at + first} is ${got[first]}, not ${want[first]}`;
}

/** After a discard each sector holds what it held, or zeros: the model takes over which. */
function adopt(got: Uint8Array, model: Uint8Array, at: number): string | null {
  for (let i = 0; i < got.length; i += SECTOR) {
    const sector = got.subarray(i, i + SECTOR);
    if (isZero(sector)) model.fill(0, at + i, at + i + SECTOR);
    const wrong = differs(sector, model, at + i, 'after a discard, a sector');
    if (wrong !== null) return wrong;
  }
  return null;
}

/** Ranges of operations under way never overlap, so that there is one right answer. */
export async function guestLoad(spec: LoadSpec): Promise<Loaded> {
  const { client, model, numbers, operations, depth, apart, plain = false, lose = -1 } = spec;
  const { below, pick } = numbers;
  const busy = new Set<Range>();
  const counts: Record<string, number> = {};
  const wrong: string[] = [];
  const sectors = model.length / SECTOR;
  let writes = 0;
  const free = (): Range => {
    for (;;) {
      const length = Math.min(sectors, 1 + below(pick([1, 8, 8, 128, 128, 300, 2048])));
      // Whole clusters now and then: only those are given back by a discard.
      const start = below(3) === 0 ? below(sectors) - (below(sectors) % 128) : below(sectors);
      const first = Math.max(0, Math.min(start - (start % (length >= 128 ? 128 : 1)), sectors - length));
      const range = { at: first * SECTOR, length: length * SECTOR };
      const from = range.at - (range.at % apart);
      const to = Math.ceil((range.at + range.length) / apart) * apart;
      if (![...busy].some(b => from < b.at + b.length && b.at < to)) return range;
    }
  };
  const check = (problem: string | null): void => {
    if (problem !== null) wrong.push(problem);
  };
  const write = async (at: number, length: number): Promise<void> => {
    const data = Buffer.alloc(length, 1 + below(255));
    data.writeUInt32LE(++writes, 0);
    if (writes !== lose) await client.send('write', at, data);
    model.set(data, at);
  };
  const operate = async (kind: string, at: number, length: number): Promise<void> => {
    if (kind === 'write') return write(at, length);
    if (kind === 'flush') return void (await client.send('flush', 0, 0));
    if (kind === 'zeroes' || kind === 'zeroes in place') {
      await client.send('zeroes', at, length, kind === 'zeroes' ? 0 : NO_HOLE);
      model.fill(0, at, at + length);
      return;
    }
    if (kind === 'trim') {
      await client.send('trim', at, length);
      return check(adopt(await client.send('read', at, length), model, at));
    }
    check(differs(await client.send('read', at, length), model, at, 'a read'));
  };
  const kinds = plain
    ? (['write', 'write', 'write', 'read', 'flush'] as const)
    : ([
        'write',
        'write',
        'write',
        'write',
        'write',
        'read',
        'read',
        'zeroes',
        'zeroes in place',
        'trim',
        'flush',
      ] as const);
  let left = operations;
  const one = async (): Promise<void> => {
    while (left-- > 0 && wrong.length === 0) {
      const kind = pick(kinds);
      const range = free();
      busy.add(range);
      counts[kind] = (counts[kind] ?? 0) + 1;
      await operate(kind, range.at, range.length);
      busy.delete(range);
    }
  };
  await Promise.all(Array.from({ length: depth }, one));
  return { counts, wrong };
}

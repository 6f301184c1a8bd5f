import { describe, expect, it } from 'vitest';
import type { WritableDisk } from '../base/contracts.ts';
import { Admission, admit, type Held, type LockMode, underLock } from './admission.ts';

/** Whether a lock was got at once. */
const now = (lock: Held | Promise<Held>): lock is Held => typeof lock === 'number';
const turn = (): Promise<void> => new Promise(resolve => setImmediate(resolve));

describe('a range lock', () => {
  it('is held at once when nothing is in the way, and waits for what overlaps', async () => {
    const admission = new Admission();
    const first = admission.lock(0, 4096);
    expect(now(first)).toBe(true);
    expect(now(admission.lock(4096, 512))).toBe(true);
    const second = admission.lock(4095, 2, 'shared');
    expect(now(second)).toBe(false);
    admission.unlock(first as Held);
    expect(admission.depth).toEqual({ held: 1, waiting: 1 });
    expect(() => admission.unlock(first as Held)).toThrow(/twice/);
  });

  it('is shared by readers and not by writers', () => {
    const admission = new Admission();
    expect(now(admission.lock(0, 100, 'shared'))).toBe(true);
    expect(now(admission.lock(50, 100, 'shared'))).toBe(true);
    expect(now(admission.lock(99, 1))).toBe(false);
  });

  it('does not let a later request overtake one that waits and overlaps it', async () => {
    const admission = new Admission();
    const order: string[] = [];
    const reader = admission.lock(0, 100, 'shared') as Held;
    const writer = Promise.resolve(admission.lock(0, 100)).then(held => {
      order.push('writer');
      admission.unlock(held);
    });
    const later = Promise.resolve(admission.lock(50, 10, 'shared')).then(held => {
      order.push('reader');
      admission.unlock(held);
    });
    expect(now(admission.lock(200, 10))).toBe(true);
    admission.unlock(reader);
    await Promise.all([writer, later]);
    expect(order).toEqual(['writer', 'reader']);
  });

  it('holds any number of ranges, at any offset', () => {
    const admission = new Admission();
    const far = 2 ** 53 - 2 ** 20;
    const held = Array.from({ length: 500 }, (_, i) => admission.lock(far + i * 512, 512) as Held);
    expect(now(admission.lock(far - 2 ** 32, 512))).toBe(true);
    for (const one of held) admission.unlock(one);
    expect(admission.depth.held).toBe(1);
  });

  it('lets go when the work fails, now or later', async () => {
    const admission = new Admission();
    const fail = (): never => {
      throw new Error('no');
    };
    expect(() => underLock(admission, 0, 1, 'exclusive', fail)).toThrow('no');
    await expect(underLock(admission, 0, 1, 'exclusive', async () => fail())).rejects.toThrow('no');
    expect(admission.idle).toBe(true);
  });
});

describe('a drain', () => {
  it('waits for what is in flight, holds back what comes, and resumes', async () => {
    const admission = new Admission();
    const log: string[] = [];
    const inFlight = admission.lock(10, 10) as Held;
    const cut = admission.drained(async () => {
      log.push('cut begins');
      await turn();
      log.push('cut ends');
      return 7;
    });
    const held = Promise.resolve(admission.lock(2 ** 40, 1)).then(() => log.push('write'));
    await turn();
    expect(log).toEqual([]);
    admission.unlock(inFlight);
    expect(await cut).toBe(7);
    await held;
    expect(log).toEqual(['cut begins', 'cut ends', 'write']);
  });

  it('resumes when the cut fails', async () => {
    const admission = new Admission();
    await expect(
      admission.drained(() => {
        throw new Error('no');
      }),
    ).rejects.toThrow('no');
    expect(now(admission.lock(0, 1))).toBe(true);
  });
});

/** One actor of the model: its steps in order, a lock first where it takes one. */
type Step = (state: State) => void;
interface Actor {
  readonly mode: LockMode | 'none' | 'drain';
  /** Blocks [from, to) of the three that there are. */
  readonly from: number;
  readonly to: number;
  readonly steps: readonly Step[];
}
interface State {
  readonly source: number[];
  readonly target: number[];
  carried: readonly number[];
  torn: boolean;
}

const differ = ({ source, target }: State): boolean => source.some((value, i) => value !== target[i]);
const put = (into: number[], from: number, values: readonly number[]): void => {
  for (const [i, value] of values.entries()) into[from + i] = value;
};

/** Two legs of a guest's write, and a copier that reads and writes some blocks from source to target. */
const writer = (value: number, from = 0, to = 1): Actor => {
  const values = new Array<number>(to - from).fill(value);
  return { mode: 'exclusive', from, to, steps: [s => put(s.source, from, values), s => put(s.target, from, values)] };
};
const copier = (mode: Actor['mode'], from = 0, to = 1): Actor => ({
  mode,
  from,
  to,
  steps: [s => (s.carried = s.source.slice(from, to)), s => put(s.target, from, s.carried)],
});
const cutter = (mode: Actor['mode']): Actor => ({ mode, from: 0, to: 0, steps: [s => (s.torn = differ(s))] });

/** Runs the actors in one interleaving: `order` names who goes next. Answers how it ended. */
async function interleave(actors: readonly Actor[], order: readonly number[]): Promise<State> {
  const admission = new Admission();
  const state: State = { source: [1, 1, 1], target: [1, 1, 1], carried: [], torn: false };
  const go = actors.map(() => [] as (() => void)[]);
  const step = (actor: number): Promise<void> => new Promise(resolve => go[actor]!.push(resolve));
  const runs = actors.map(async ({ mode, from, to, steps }, i) => {
    const work = async (): Promise<void> => {
      for (const each of steps) {
        await step(i);
        each(state);
      }
    };
    await step(i);
    if (mode === 'none') await work();
    else if (mode === 'drain') await admission.drained(work);
    else await underLock(admission, from, to - from, mode, work);
  });
  const all = Promise.all(runs);
  // An actor that waits for a lock lets its turn pass; turns go round until all have ended.
  let ended = false;
  void all.then(() => (ended = true));
  for (let round = 0; !ended; round++) {
    go[order[round % order.length]!]!.shift()?.();
    await turn();
  }
  return state;
}

function* interleavings(counts: readonly number[]): Generator<number[]> {
  if (counts.every(count => count === 0)) {
    yield [];
    return;
  }
  for (const [i, count] of counts.entries()) {
    if (count === 0) continue;
    const rest = counts.map((c, j) => (j === i ? c - 1 : c));
    for (const tail of interleavings(rest)) yield [i, ...tail];
  }
}

describe('two writers, a copier and a cut, in every interleaving', () => {
  const violations = async (actors: readonly Actor[]): Promise<number> => {
    let count = 0;
    for (const order of interleavings(actors.map(actor => actor.steps.length + 1))) {
      const state = await interleave(actors, order);
      if (differ(state) || state.torn) count++;
    }
    return count;
  };

  it('ends with both legs equal', async () => {
    expect(await violations([writer(2), writer(3), copier('exclusive')])).toBe(0);
  });

  it('ends so when their ranges overlap in part', async () => {
    expect(await violations([writer(2, 0, 2), writer(3, 1, 3), copier('exclusive', 0, 3)])).toBe(0);
  });

  it('is caught when the copier holds less than it copies', async () => {
    const narrow: Actor = { ...copier('exclusive', 0, 3), to: 2 };
    expect(await violations([writer(2, 0, 2), writer(3, 2, 3), narrow])).toBeGreaterThan(0);
  });

  it('never lets a cut see one leg without the other', async () => {
    expect(await violations([writer(2), copier('exclusive'), cutter('drain')])).toBe(0);
  });

  it('is caught when the copier takes no lock', async () => {
    expect(await violations([writer(2), writer(3), copier('none')])).toBeGreaterThan(0);
  });

  it('is caught when the cut does not drain', async () => {
    expect(await violations([writer(2), writer(3), cutter('none')])).toBeGreaterThan(0);
  });
});

describe('an admitted disk', () => {
  const slow = (): { disk: WritableDisk; log: string[] } => {
    const log: string[] = [];
    const later = async (what: string): Promise<void> => {
      log.push(`${what} begins`);
      await turn();
      log.push(`${what} ends`);
    };
    const disk: WritableDisk = {
      id: 'd',
      size: 8192,
      sectorSize: 512,
      extent: (_at, limit) => ({ kind: 'data', length: limit }),
      load: async () => {},
      read: () => later('read'),
      write: from => (from[0] === 1 ? undefined : later('write')),
      zero: () => later('zero'),
      flush: () => later('flush'),
      async [Symbol.asyncDispose]() {},
    };
    return { disk, log };
  };

  it('does what is done at once at once', () => {
    const { disk } = slow();
    const admitted = admit(disk);
    expect(admitted.write(new Uint8Array(512).fill(1), 0)).toBeUndefined();
    expect(admitted.admission.idle).toBe(true);
  });

  it('keeps writes to one range apart, and stands still in a drain: reads and flushes too', async () => {
    const { disk, log } = slow();
    const admitted = admit(disk);
    const buffer = new Uint8Array(512);
    const first = admitted.write(buffer, 0);
    const flush = admitted.flush();
    const cut = admitted.admission.drained(() => log.push('cut'));
    await Promise.all([first, flush, cut, admitted.read(buffer, 0), admitted.zero(0, 512)]);
    expect(log).toEqual([
      'write begins',
      'flush begins',
      'write ends',
      'flush ends',
      'cut',
      'read begins',
      'read ends',
      'zero begins',
      'zero ends',
    ]);
  });
});

import { expect, test } from 'vitest';
import type { ByteFile, Bytes } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { Checkpoints, type Reached, readerBack } from './checkpoints.ts';
import { CHECK_WINDOW, ContentCheck } from './content-check.ts';

const GIB = 2 ** 30;
/** Where the disk has data: one window each. */
const PLACES: readonly Bytes[] = [0, GIB / 2, GIB - CHECK_WINDOW];

const byteAt = (at: Bytes): number => 1 + ((at / CHECK_WINDOW) % 200);

function told(until: Bytes): string {
  const check = new ContentCheck();
  for (const at of PLACES) if (at < until) check.add(new Uint8Array(CHECK_WINDOW).fill(byteAt(at)), at);
  return check.value()!;
}

const reachedAt = (done: Bytes): Reached => ({ done, content: told(done) });

/** A file that holds what it should but for the window at `wrongAt`, and tells what was done with it. */
function fakeFile(wrongAt: Bytes | null): ByteFile & { readonly log: string[] } {
  const log: string[] = [];
  return {
    name: 'out',
    size: GIB,
    log,
    async read(into, at) {
      log.push(`read ${at}`);
      into.fill(byteAt(at));
      if (at === wrongAt) into[70_000]! ^= 1;
    },
    write() {},
    async truncate() {},
    async sync() {
      log.push('sync');
    },
    async [Symbol.asyncDispose]() {},
  };
}

function checkpointsOf(file: ReturnType<typeof fakeFile>, stop = new AbortController()) {
  const isSame = readerBack(
    file,
    async function* windows(from, to, signal) {
      for (const at of PLACES) {
        signal.throwIfAborted();
        if (at >= from && at < to) yield { at, length: CHECK_WINDOW };
      }
    },
    GIB,
  );
  return new Checkpoints({
    file,
    from: 0,
    async save({ done }) {
      file.log.push(`journal ${done}`);
    },
    async readBack(reached, watch) {
      if (!(await isSame(reached, watch))) throw new ImageError('corrupt', `differs before ${reached.done}`);
    },
    signal: stop.signal,
  });
}

const watch = { signal: new AbortController().signal, progress() {} };

test('what is durable is read back while the rest is written, each place once', async () => {
  const file = fakeFile(null);
  const checkpoints = checkpointsOf(file);
  checkpoints.begin(GIB / 2 + CHECK_WINDOW, () => told(GIB / 2 + CHECK_WINDOW));
  await checkpoints.settle();
  const [first, second, last] = PLACES;
  const half = ['sync', `journal ${GIB / 2 + CHECK_WINDOW}`, `read ${first}`, `read ${second}`];
  expect(file.log).toEqual(half);
  await checkpoints.end(reachedAt(GIB), watch);
  expect(file.log).toEqual([...half, 'sync', `journal ${GIB}`, `read ${last}`]);
});

test.each(PLACES)('what differs at %d is found', async wrongAt => {
  const checkpoints = checkpointsOf(fakeFile(wrongAt));
  checkpoints.begin(GIB / 2 + CHECK_WINDOW, () => told(GIB / 2 + CHECK_WINDOW));
  await checkpoints.settle();
  await expect(checkpoints.end(reachedAt(GIB), watch)).rejects.toThrow(
    wrongAt <= GIB / 2 ? 'before 5389' : 'before 107',
  );
});

test('a difference that was found stops what goes on writing, and nothing is said to be done after it', async () => {
  const file = fakeFile(0);
  const checkpoints = checkpointsOf(file);
  checkpoints.begin(GIB / 2, () => told(GIB / 2));
  await checkpoints.settle();
  expect(() => checkpoints.begin(GIB, () => told(GIB))).toThrow('differs before');
  await expect(checkpoints.now(reachedAt(GIB))).rejects.toThrow('differs before');
  expect(file.log.filter(line => line.startsWith('journal'))).toEqual([`journal ${GIB / 2}`]);
});

test('reading back that is called off does not keep the journal from being written', async () => {
  const stop = new AbortController();
  const file = fakeFile(null);
  const checkpoints = checkpointsOf(file, stop);
  stop.abort(new Error('stopped'));
  checkpoints.begin(GIB / 2, () => told(GIB / 2));
  await checkpoints.settle();
  await checkpoints.now(reachedAt(GIB / 2 + CHECK_WINDOW));
  expect(file.log.at(-1)).toBe(`journal ${GIB / 2 + CHECK_WINDOW}`);
});

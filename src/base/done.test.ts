import { expect, test } from 'vitest';
import { inParts } from './done.ts';

const failure = new Error('the second part cannot be had');

test('what is done at once is done when the call returns', () => {
  const seen: number[] = [];
  const done = inParts(10, (at, wait) => {
    seen.push(at);
    wait(undefined);
    return at + 4;
  });
  expect([done, seen]).toEqual([undefined, [0, 4, 8]]);
});

test('an error is thrown at once while nothing is under way', () => {
  expect(() =>
    inParts(10, at => {
      if (at > 0) throw failure;
      return 5;
    }),
  ).toThrow(failure);
});

test('an error waits for the parts that are under way, and nothing follows it', async () => {
  const first = Promise.withResolvers<void>();
  const seen: number[] = [];
  const reading = inParts(10, (at, wait) => {
    seen.push(at);
    if (at > 0) throw failure;
    wait(first.promise);
    return 4;
  }) as Promise<void>;
  let ended = false;
  const outcome = reading.catch(error => error).finally(() => (ended = true));
  for (let i = 0; i < 10; i++) await null;
  expect([ended, seen]).toEqual([false, [0, 4]]);
  first.resolve();
  expect(await outcome).toBe(failure);
});

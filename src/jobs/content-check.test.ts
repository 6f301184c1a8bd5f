import { describe, expect, test } from 'vitest';
import { pattern } from '../../test/kit/disks.ts';
import { random } from '../../test/kit/random.ts';
import { CHECK_WINDOW, ContentCheck } from './content-check.ts';

const SIZE = 3 * CHECK_WINDOW + 70_000;

function content(): Uint8Array {
  const bytes = new Uint8Array(SIZE);
  pattern(bytes.subarray(5000, 300_000), 0, 1);
  pattern(bytes.subarray(2 * CHECK_WINDOW - 10, 2 * CHECK_WINDOW + 200_000), 0, 2);
  bytes[SIZE - 1] = 9;
  return bytes;
}

function checkOf(bytes: Uint8Array): string | null {
  const check = new ContentCheck();
  check.add(bytes, 0);
  return check.value();
}

/** In pieces of any length; some of those that hold nothing are left out. */
function inPieces(bytes: Uint8Array, seed: number, check = new ContentCheck(), from = 0): string | null {
  const { below, pick } = random(seed);
  for (let at = from; at < bytes.length; ) {
    const length = 1 + below(pick([100, 5000, 70_000, 3_000_000]));
    const part = bytes.slice(at, at + length);
    if (part.some(byte => byte !== 0) || below(2) === 0) check.add(part, at);
    at += length;
  }
  return check.value();
}

describe('the check value of a disk', () => {
  test('is the same however it is read, with its zeros or without', () => {
    const bytes = content();
    for (let seed = 0; seed < 10; seed++) expect(inPieces(bytes, seed)).toBe(checkOf(bytes));
  });

  test('is another one for every byte that differs or moves', () => {
    const sound = checkOf(content());
    for (const at of [0, 4999, 5000, 65_535, 65_536, CHECK_WINDOW, 2 * CHECK_WINDOW - 1, SIZE - 2, SIZE - 1]) {
      const bytes = content();
      bytes[at]! ^= 1;
      expect(checkOf(bytes), `byte ${at}`).not.toBe(sound);
    }
    const moved = content();
    moved.copyWithin(CHECK_WINDOW, 0, CHECK_WINDOW);
    moved.fill(0, 0, CHECK_WINDOW);
    expect(checkOf(moved)).not.toBe(sound);
    expect(checkOf(new Uint8Array(SIZE))).not.toBe(sound);
  });

  test('goes on where it was stopped', () => {
    const bytes = content();
    const first = new ContentCheck();
    first.add(bytes.subarray(0, 2 * CHECK_WINDOW), 0);
    const second = new ContentCheck(first.value()!, 2 * CHECK_WINDOW);
    expect(inPieces(bytes, 4, second, 2 * CHECK_WINDOW)).toBe(checkOf(bytes));
  });

  test('does not exist for what is not read in order', () => {
    const check = new ContentCheck();
    check.add(new Uint8Array(512).fill(1), 4096);
    check.add(new Uint8Array(512).fill(1), 4000);
    expect(check.value()).toBeNull();
  });
});

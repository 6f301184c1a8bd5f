import { expect, test } from 'vitest';
import { ImageError } from '../base/errors.ts';
import { Complaints } from './complaints.ts';

const damaged = (at: number): ImageError => new ImageError('corrupt', 'the block is damaged', { file: 'a.bml', at });

test('each kind of error is told once a minute, with its place and how often it came meanwhile', () => {
  const told: string[] = [];
  const complaints = new Complaints(line => told.push(line));
  complaints.note('read /x', damaged(512), 0);
  for (let i = 1; i < 10; i++) complaints.note('read /x', damaged(512 * i), i * 1000);
  complaints.note('write /y', new ImageError('no-space', 'no space left', {}, { hint: 'make room' }), 10_000);
  complaints.note('read /x', damaged(4096), 61_000);
  complaints.note('read /x', damaged(8192), 122_000);
  expect(told).toEqual([
    'read /x: the block is damaged (a.bml, at 512)',
    'write /y: no space left; make room',
    'read /x: the block is damaged (a.bml, at 4096) (and 9 times before)',
    'read /x: the block is damaged (a.bml, at 8192)',
  ]);
});

test('an error of the program itself is told with where it happened', () => {
  const told: string[] = [];
  new Complaints(line => told.push(line)).note('read /x', new TypeError('not a number'));
  expect(told[0]).toMatch(/read \/x: TypeError: not a number\n.*complaints\.test/);
});

test('names do not make lines of their own', () => {
  const told: string[] = [];
  const error = new ImageError('io', 'I/O failed', { file: 'a\n2026-11-28 all is well' });
  new Complaints(line => told.push(line)).note('read /\u001b[2Jx', error);
  expect(told).toEqual(['read /?[2Jx: I/O failed (a?2026-11-28 all is well)']);
});

test('many kinds take no more memory than some', () => {
  let told = 0;
  const complaints = new Complaints(() => told++);
  for (let i = 0; i < 10_000; i++) complaints.note('read /x', new ImageError('io', `error ${i}`), 0);
  expect(told).toBe(10_000);
});

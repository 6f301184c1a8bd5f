import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { BLAME, Suspects } from './suspects.ts';

let file = '';
beforeEach(() => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-suspects-'));
  file = path.join(folder, 'suspects');
  onTestFinished(() => fs.rmSync(folder, { recursive: true }));
});

/** A process that begins to serve `begun`, answers `answered`, and dies; what it was told about each before. */
function life(blame: number, begun: readonly string[], answered: readonly string[] = []): readonly string[] {
  const suspects = new Suspects(file, blame);
  const judged = begun.map(unique => suspects.judge(unique));
  for (const [i, unique] of begun.entries()) if (judged[i] !== 'refused') suspects.begun(unique);
  for (const unique of answered) suspects.answered(unique);
  suspects.close();
  return judged;
}

describe('requests that were in hand when a process died', () => {
  test('are served alone after one crash and refused after two', () => {
    expect(life(BLAME.crash, ['a', 'b'], ['b'])).toEqual(['as any', 'as any']);
    expect(life(BLAME.crash, ['a', 'b', 'c'])).toEqual(['alone', 'as any', 'as any']);
    expect(life(BLAME.crash, ['a', 'b', 'c'])).toEqual(['refused', 'alone', 'alone']);
  });

  test('are not blamed for what happens while they are not', () => {
    life(BLAME.crash, ['a']);
    expect(life(BLAME.crash, ['b'])).toEqual(['as any']);
    expect(life(BLAME.crash, ['a', 'b'])).toEqual(['as any', 'alone']);
  });

  test('are blamed little for kills from outside, and not for an upgrade', () => {
    life(BLAME.crash, ['a']);
    for (let i = 0; i < 100; i++) expect(life(BLAME.none, ['a'])).toEqual(['as any']);
    for (let i = 0; i < 9; i++) expect(life(BLAME.kill, ['a'])).toEqual(['as any']);
    for (let i = 0; i < 10; i++) expect(life(BLAME.kill, ['a'])).toEqual(['alone']);
    expect(life(BLAME.kill, ['a'])).toEqual(['refused']);
  });

  test('do not count when their line is not whole', () => {
    fs.writeFileSync(file, 'r a 10\nr b 1');
    expect(life(BLAME.crash, ['a', 'b'])).toEqual(['refused', 'as any']);
  });
});

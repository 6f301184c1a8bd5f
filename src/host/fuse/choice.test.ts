import { describe, expect, test } from 'vitest';
import { random } from '../../../test/kit/random.ts';
import { Choice } from './choice.ts';

/** Share of the rounds that each way gets when they yield `rates`, with noise of a third. */
function shares(choice: Choice, rates: readonly number[], rounds: number): number[] {
  const { below } = random(5);
  const count = rates.map(() => 0);
  for (let i = 0; i < rounds; i++) {
    const way = choice.next();
    count[way]!++;
    choice.yielded(rates[way]! * (0.84 + below(32) / 100));
  }
  return count.map(n => n / rounds);
}

describe('a choice between ways', () => {
  test('the best one gets nearly all rounds, whichever it is', () => {
    for (const best of [0, 1, 2]) {
      const rates = [0, 1, 2].map(way => (way === best ? 50 : 20));
      expect(shares(new Choice(3), rates, 5000)[best]).toBeGreaterThan(0.97);
    }
  });

  test('the plain one is kept when the others are hardly better', () => {
    expect(shares(new Choice(3), [50, 53, 51], 5000)[0]).toBeGreaterThan(0.9);
  });

  test('what was found out for another load is forgotten soon', () => {
    const choice = new Choice(3);
    shares(choice, [170, 60, 80], 5000);
    expect(shares(choice, [22, 26, 54], 200)[2]).toBeGreaterThan(0.8);
    expect(shares(choice, [6, 2, 3], 200)[0]).toBeGreaterThan(0.8);
    expect(shares(choice, [22, 54, 20], 200)[1]).toBeGreaterThan(0.8);
  });

  test('a way that takes a round to find its place is not judged by that', () => {
    const choice = new Choice(3);
    let before = 0;
    let others = 0;
    for (let i = 0; i < 1000; i++) {
      const way = choice.next();
      choice.yielded(way !== 2 ? 25 : before === 2 ? 80 : 17);
      if (way !== 2) others++;
      before = way;
    }
    expect(others).toBeLessThan(50);
  });

  test('it follows when the load changes', () => {
    const choice = new Choice(3);
    shares(choice, [50, 20, 20], 5000);
    shares(choice, [20, 20, 50], 3000);
    expect(shares(choice, [20, 20, 50], 1000)[2]).toBeGreaterThan(0.9);
    shares(choice, [50, 20, 20], 500);
    expect(shares(choice, [50, 20, 20], 1000)[0]).toBeGreaterThan(0.9);
  });
});

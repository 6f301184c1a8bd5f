import { describe, expect, test } from 'vitest';
import { Heartbeat, LOST, type Sight, STUCK, threadsOf, type Verdict } from './heartbeat.ts';

const busy: Sight = { waiting: 3, beats: 7, answered: 100, thread: { state: 'S', cpu: 5000 }, device: false };

/** The verdict after each of `times` looks at what `sight` gives. */
function looks(times: number, sight: (n: number) => Sight): Verdict[] {
  const heartbeat = new Heartbeat();
  return Array.from({ length: times }, (_, n) => heartbeat.look(sight(n)));
}
const first = (verdicts: readonly Verdict[], verdict: Verdict): number => verdicts.indexOf(verdict);

describe('a worker', () => {
  test.each(['S', 'T'])('whose thread stands still (%s) while requests wait is hung after ten looks', state => {
    expect(
      first(
        looks(30, () => ({ ...busy, thread: { state, cpu: 5000 } })),
        'hung',
      ),
    ).toBe(STUCK);
  });

  test('that spins is hung; one that gets no processor is not', () => {
    const spins = looks(30, n => ({ ...busy, thread: { state: 'R', cpu: 5000 + n * 900 } }));
    expect(first(spins, 'hung')).toBe(STUCK);
    expect(looks(60, n => ({ ...busy, thread: { state: 'R', cpu: 5000 + n } }))).not.toContain('hung');
  });

  test('that waits for a device is slow, however long', () => {
    const device = looks(500, () => ({ ...busy, device: true, thread: { state: 'D', cpu: 5000 } }));
    expect(device).not.toContain('hung');
    expect(device.at(-1)).toBe('slow');
  });

  test('that turns and answers nothing is hung late, unless a thread of it waits for a device', () => {
    expect(
      first(
        looks(LOST + 10, n => ({ ...busy, beats: n })),
        'hung',
      ),
    ).toBe(LOST);
    expect(looks(LOST + 10, n => ({ ...busy, beats: n, device: true }))).not.toContain('hung');
    expect(looks(1000, n => ({ ...busy, beats: n, answered: n >> 6 }))).not.toContain('hung');
  });

  test('that is idle is never judged, nor one that is seen busy only now and then', () => {
    expect(looks(500, () => ({ ...busy, waiting: 0 }))).not.toContain('hung');
    expect(looks(500, n => ({ ...busy, waiting: n % STUCK === 0 ? 0 : 1 }))).not.toContain('hung');
  });

  test('is seen by its process', () => {
    expect(threadsOf(process.pid)?.thread.state).toMatch(/^[RSD]$/);
    expect(threadsOf(2 ** 30)).toBeNull();
  });
});

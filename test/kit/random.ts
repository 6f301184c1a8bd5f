/** Numbers that look random and are the same in every run. */
export interface Random {
  /** A whole number, 0 <= n < limit. */
  below(limit: number): number;
  /** Any of them. */
  pick<T>(items: readonly T[]): T;
}

/** mulberry32, two steps per number so that limits beyond 2^32 work too. */
export function random(seed: number): Random {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  };
  const below = (limit: number): number => Math.floor(((next() * 0x20_0000 + (next() >>> 11)) / 2 ** 53) * limit);
  return { below, pick: items => items[below(items.length)]! };
}

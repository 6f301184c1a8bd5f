import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Recent } from './recent.ts';

const steps = fc.array(
  fc.record({
    what: fc.constantFrom('use', 'put', 'delete', 'get', 'oldest' as const),
    key: fc.nat(7),
    value: fc.nat(),
  }),
  { maxLength: 60 },
);

test('behaves as a Map whose entries are taken out and put in again', () => {
  fc.assert(
    fc.property(steps, all => {
      const [ours, model] = [new Recent<number, number>(), new Map<number, number>()];
      const anew = (key: number, value: number): void => {
        model.delete(key);
        model.set(key, value);
      };
      for (const { what, key, value } of all) {
        const known = model.get(key);
        if (what === 'put') {
          ours.put(key, value);
          anew(key, value);
        } else if (what === 'use') {
          expect(ours.use(key)).toBe(known);
          if (known !== undefined) anew(key, known);
        } else if (what === 'delete') {
          expect(ours.delete(key)).toBe(known);
          model.delete(key);
        } else if (what === 'get') expect([ours.get(key), ours.has(key)]).toEqual([known, model.has(key)]);
        const [first] = model;
        expect(ours.oldest === null ? undefined : [ours.oldest.key, ours.oldest.value]).toEqual(first);
        expect(ours.size).toBe(model.size);
      }
      for (const [key] of model) {
        expect(ours.oldest?.key).toBe(key);
        expect(ours.takeOldest()?.key).toBe(key);
      }
      expect([ours.oldest, ours.takeOldest(), ours.size]).toEqual([null, null, 0]);
    }),
  );
});

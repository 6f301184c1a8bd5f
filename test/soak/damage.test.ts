/** A sample of what `npm run soak -- F7-PLAIN F7-ENCRYPTED` tries in full. */
import { describe, expect, test } from 'vitest';
import { type Kind, kindsOf } from './damage.ts';
import { tally } from './damage-figure.ts';
import { SECRETS, smallRepository } from './small-repository.ts';

describe.each(Object.entries(SECRETS))('a damaged repository, %s', (_, secret) => {
  test('is found at level 3 or reads as it was; no wrong byte is read', async () => {
    const repository = await smallRepository(secret);
    const other = await smallRepository(secret);
    for (const kind of kindsOf(repository, other.files)) {
      const { cases, missed } = await tally(repository, other, kind, 25);
      expect(cases).toBeGreaterThan(0);
      expect(missed).toEqual([]);
    }
  });

  test('control: damage that is not found, and wrong bytes, are noticed here', async () => {
    const repository = await smallRepository(secret);
    const none: Kind = { name: 'none', owes: 'all', damages: [{ title: 'nothing', make: () => repository.files }] };
    expect((await tally(repository, repository, none, 1)).missed).toEqual(['nothing']);
    const disks = new Map([...repository.disks.keys()].map(identity => [identity, new Uint8Array(7)]));
    await expect(tally({ ...repository, disks }, repository, none, 1)).rejects.toThrow('none: nothing');
  });
});

/** Damaged headers of LUKS whose costs are high take their time by right: no key is tried there. */
import type { ByteSource, Keyring, Store } from '../../src/base/contracts.ts';
import { type LuksSource, luksHeader } from '../../src/base/luks/index.ts';
import { KEYS, orImageError } from './target.ts';

export const NO_KEYS: Keyring = { secrets: async () => [] };

const MOST = 4000;

/** The keys where trying them is cheap, else none. `where`: what of the file holds the header; null: there is none. */
export async function affordableKeys(
  store: Store,
  name: string,
  where: (source: ByteSource) => LuksSource | null | Promise<LuksSource | null>,
): Promise<Keyring> {
  let cheap = false;
  await orImageError(async () => {
    await using source = await store.open(name);
    const stretch = await where(source);
    const header = stretch === null ? null : await luksHeader(stretch);
    if (header === null) return;
    const costs = header.slots.map(({ derivation }) => (derivation.type === 'pbkdf2' ? derivation.iterations : MOST));
    cheap = header.slots.length < 3 && Math.max(header.digest.iterations, ...costs) < MOST;
  });
  return cheap ? KEYS : NO_KEYS;
}

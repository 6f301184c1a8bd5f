import { affordableKeys, NO_KEYS } from '../luks-costs.ts';
import type { FuzzTarget, Seed } from '../target.ts';
import { exerciseVolumes, madeSeed } from '../volume-target.ts';

const COSTS = '--pbkdf pbkdf2 --pbkdf-force-iterations 1000 --luks2-keyslots-size 256k';

const seeds = async (): Promise<readonly Seed[]> => [
  madeSeed(
    'LUKS2',
    `printf fuzz > key; truncate -s 2M a; mke2fs -q -F -t ext2 -b 1024 -d tree a; truncate -s 4M a
     cryptsetup reencrypt --encrypt -q --reduce-device-size 2M --key-size 256 ${COSTS} --key-file key a`,
    'a',
  ),
  madeSeed(
    'LUKS1',
    `printf fuzz > key; truncate -s 3M a
     cryptsetup luksFormat -q --type luks1 --key-size 256 --pbkdf-force-iterations 1000 a key`,
    'a',
  ),
];

export const target: FuzzTarget = {
  needs: ['cryptsetup', 'mke2fs'],
  seeds,
  async exercise(store, _name, numbers) {
    // A key costs milliseconds; most cases end at the header without it just as well.
    const keys = numbers.below(4) === 0 ? await affordableKeys(store, 'a', source => source) : NO_KEYS;
    await exerciseVolumes(store, numbers, keys);
  },
};

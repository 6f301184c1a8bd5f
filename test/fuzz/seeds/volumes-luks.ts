import { madeSeed, volumeTarget } from '../volume-target.ts';

const COSTS = '--pbkdf pbkdf2 --pbkdf-force-iterations 1000 --luks2-keyslots-size 256k';

// One keyslot of few bytes, so that a case is soon done.
export const target = volumeTarget(['cryptsetup', 'mke2fs'], async () => [
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
]);

import { createCipheriv, pbkdf2Sync } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseHeader } from '../../../formats/qcow2/header.ts';
import { qcow2 } from '../../../formats/qcow2/index.ts';
import { createEncrypted, ENCRYPTED_NEEDS, writeEncrypted } from '../../kit/encrypted-qcow2.ts';
import { affordableKeys } from '../luks-costs.ts';
import { exerciseAdapter, type FuzzTarget, SECRET, type Seed } from '../target.ts';

const NAME = 'a.qcow2';
const SIZE = 3 * 2 ** 19;

/**
 * A keyslot of one stripe and one iteration, for another volume key than the clusters are enciphered by: what comes out is
 * looked at by nobody, and opening a keyslot of the usual kind would be nearly all that a case costs.
 */
function cheapened(image: Buffer): Uint8Array {
  const header = image.subarray(image.indexOf('LUKS\xba\xbe', 0, 'latin1'));
  const slot = header.subarray(208, 256);
  const [once, hash] = [1, 'sha256'];
  const key = Buffer.alloc(32, 'key');
  slot.writeUInt32BE(once, 4);
  slot.writeUInt32BE(once, 44);
  header.writeUInt32BE(once, 164);
  header.set(pbkdf2Sync(key, header.subarray(132, 164), once, 20, hash), 112);
  const stretched = pbkdf2Sync(SECRET, slot.subarray(8, 40), once, key.length, hash);
  const cipher = createCipheriv('aes-128-xts', stretched, Buffer.alloc(16));
  header.set(cipher.update(Buffer.concat([key, Buffer.alloc(512 - key.length)])), slot.readUInt32BE(40) * 512);
  return new Uint8Array(image);
}

function made(options: string): Seed {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-fuzz-'));
  try {
    createEncrypted(folder, NAME, { options, size: SIZE, secret: Buffer.from(SECRET).toString(), keyBits: 256 });
    writeEncrypted(folder, NAME, ['write -P 1 0 100k', 'write -z 64k 16k', `write -P 2 ${SIZE - 20_480} 20k`]);
    return { title: options, name: NAME, files: { [NAME]: cheapened(fs.readFileSync(path.join(folder, NAME))) } };
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}

export const target: FuzzTarget = {
  needs: ENCRYPTED_NEEDS,
  seeds: async () => [made('cluster_size=4k'), made('cluster_size=64k'), made('cluster_size=16k,extended_l2=on')],
  async exercise(store, name, numbers) {
    const keys = await affordableKeys(store, name, async source => {
      const head = new Uint8Array(Math.min(source.size, 2 ** 16));
      await source.read(head, 0);
      const { encryption, luksAt, luksLength } = parseHeader(head, source.size, name);
      if (encryption !== 'LUKS') return null;
      return { name, size: luksLength, read: (into, at) => source.read(into, luksAt + at) };
    });
    await exerciseAdapter(qcow2, store, name, numbers, keys);
  },
};

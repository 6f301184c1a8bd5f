/** Every format is under its kit; here are those whose own tests look at other things. */
import fs from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { bml } from '../../formats/bml/index.ts';
import { qcow2, qcow2Format } from '../../formats/qcow2/index.ts';
import { raw, rawFormat } from '../../formats/raw/index.ts';
import type { LayerCipher } from '../../src/base/contracts.ts';
import { adapters, diskFormats } from '../../src/registry.ts';
import { localWritableStore } from '../../src/stores/local.ts';
import { adapterKit, type MadeImage } from './adapter-kit.ts';
import { diskFormatKit } from './disk-format-kit.ts';
import { pattern } from './disks.ts';
import { sevenZipDigest } from './oracles.ts';

diskFormatKit(rawFormat, { adapter: raw, qemu: 'raw', checkable: false, second: null, limit: null });

diskFormatKit(qcow2Format, {
  adapter: qcow2,
  qemu: 'qcow2',
  checkable: true,
  second: { needs: ['7zz'], digest: file => sevenZipDigest(file, 'qcow') },
  limit: null,
});

const BLOCK = 65_536;
const SECRET = 'a pass-phrase of the test';

function bmlImage(secret: string | null, cipher?: LayerCipher): MadeImage {
  return {
    title: secret === null ? 'plain' : `encrypted with ${cipher}`,
    needs: [],
    ...(secret === null ? {} : { secret }),
    async make(folder) {
      const content = new Uint8Array(40 * BLOCK + 512);
      pattern(content.subarray(0, 9 * BLOCK), 0, 5);
      content.fill(7, 12 * BLOCK, 20 * BLOCK + 1000);
      pattern(content.subarray(40 * BLOCK), 40 * BLOCK, 6);
      fs.writeFileSync(path.join(folder, 'made.raw'), content);
      await using writer = await bml.create!('made.bml', localWritableStore(folder), {
        set: 'made',
        time: new Date(0),
        type: 'full',
        disks: [{ name: 'disk0', size: content.length, sectorSize: 512 }],
        blockSize: BLOCK,
        parent: null,
        secret: secret === null ? null : Buffer.from(secret),
        compression: 1,
        ...(cipher === undefined ? {} : { cipher }),
      });
      for (let at = 0; at < content.length; at += BLOCK)
        await writer.write(0, at / BLOCK, content.subarray(at, at + BLOCK));
      await writer.commit();
      return { file: 'made.bml', raw: 'made.raw' };
    },
  };
}

adapterKit(bml, { images: [bmlImage(null), bmlImage(SECRET, 'aes-256-gcm'), bmlImage(SECRET, 'aes-256-xts')] });

/** Formats that have no call of a kit, and why. */
const WITHOUT: Readonly<Record<string, string>> = {
  clonezilla: 'an image is a folder of many files; clonezilla.test.ts compares every disk with its source',
};

/** The first argument of every call of `kit` in a test. */
function underKit(kit: string): ReadonlySet<string> {
  const root = path.resolve(import.meta.dirname, '../..');
  const files = ['formats', 'test/kit'].flatMap(folder =>
    fs.globSync('**/*.test.ts', { cwd: path.join(root, folder) }).map(file => path.join(root, folder, file)),
  );
  const calls = new RegExp(`^\\s*${kit}\\((\\w+)`, 'gm');
  return new Set(files.flatMap(file => Array.from(fs.readFileSync(file, 'utf8').matchAll(calls), call => call[1]!)));
}

test('every adapter is under its kit, or there is a reason', () => {
  const called = underKit('adapterKit');
  const without = adapters.map(({ name }) => name).filter(name => !called.has(name) && WITHOUT[name] === undefined);
  expect(without).toEqual([]);
  expect(Object.keys(WITHOUT).filter(name => called.has(name))).toEqual([]);
});

test('every disk format is under its kit', () => {
  const called = underKit('diskFormatKit');
  expect(diskFormats.map(({ name }) => `${name}Format`).filter(name => !called.has(name))).toEqual([]);
});

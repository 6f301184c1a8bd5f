/** Passwords: every key length, several secrets, none, a wrong one; what stays visible while a backup is locked. */
import { describe, expect, test } from 'vitest';
import type { Image, Keyring } from '../../src/base/contracts.ts';
import { openRepository } from '../../src/chain/repository.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { buildFile, bytesOf, type FileSpec } from './fixtures.ts';
import { macrium } from './index.ts';
import { blocks, fatDisk, historyTo, MIB, nameOf, restored, simpleDisk, threeFiles } from './shapes.ts';

const ring = (...secrets: readonly string[]): Keyring => ({
  secrets: async () => secrets.map(each => Buffer.from(each)),
});
const encryption = (bits: 128 | 192 | 256, password = 'pässwörd') => ({ bits, password });

const storeOf = (files: readonly FileSpec[]) =>
  memoryStore(Object.fromEntries(files.map(file => [nameOf(file.number), bytesOf(buildFile(file))])));

async function tipOf(files: readonly FileSpec[], keys: Keyring): Promise<Uint8Array> {
  await using repository = await openRepository(storeOf(files), [macrium], keys);
  const point = repository.sets[0]!.points.at(-1)!;
  await using disk = await point.openDisk(0);
  const out = new Uint8Array(disk.size);
  await disk.read(out, 0);
  return out;
}

const encrypted = (bits: 128 | 192 | 256, more: Partial<FileSpec> = {}): FileSpec[] =>
  threeFiles().map(file => ({ ...file, ...more, encryption: encryption(bits) }));

describe.each([128, 192, 256] as const)('AES-%i', bits => {
  test('a chain, compressed and not', async () => {
    for (const compression of ['medium', 'none'] as const) {
      const files = encrypted(bits, { compression });
      const bytes = await tipOf(files, ring('wrong', 'pässwörd'));
      expect(Buffer.compare(bytes, restored(files, 8 * MIB))).toBe(0);
    }
  });

  test('reserved sectors, and metadata that is encrypted too', async () => {
    const files: FileSpec[] = [{ number: 0, encryption: encryption(bits), encryptMetadata: true, disks: [fatDisk()] }];
    expect(Buffer.compare(await tipOf(files, ring('pässwörd')), restored(files, 12 * MIB))).toBe(0);
  });
});

describe('without the key', () => {
  const withOne = async (keys: Keyring, look: (image: Image) => void): Promise<void> => {
    await using image = await macrium.open(nameOf(0), storeOf(encrypted(256).slice(0, 1)), keys);
    look(image);
  };

  test('locked without a password, with a wrong one another fault; machine, time and disks stay visible', async () => {
    for (const [keys, fault] of [
      [ring(), 'locked'],
      [ring('nearly'), 'wrong-key'],
    ] as const) {
      await withOne(keys, image => {
        expect(image.encrypted).toBe(true);
        const [point] = image.points;
        expect(point!.problem).toMatchObject({ fault });
        expect(point!.time).not.toBeNull();
        expect(point!.disks).toMatchObject([{ name: 'disk0', size: 8 * MIB, layer: null }]);
      });
    }
  });

  test('one locked set leaves the others alone', async () => {
    const store = storeOf(encrypted(256).slice(0, 1));
    const open: FileSpec = {
      number: 0,
      disks: [simpleDisk(blocks(1, [0]))],
      edit: description => Object.assign(description._header!, { imageid: 'FEDCBA9876543210' }),
    };
    store.put('open.mrimgx', bytesOf(buildFile(open)));
    await using repository = await openRepository(store, [macrium], ring());
    const states = repository.sets.flatMap(set => set.points.map(point => [point.file, point.state]));
    expect(new Map(states as [string, string][])).toEqual(
      new Map([
        ['open.mrimgx', 'ok'],
        [nameOf(0), 'locked'],
      ]),
    );
  });

  test('a delta under another password than its full cannot be read with one of them', async () => {
    const [full] = encrypted(256);
    const delta: FileSpec = {
      number: 1,
      delta: true,
      history: historyTo(1),
      encryption: encryption(256, 'other'),
      disks: [simpleDisk(blocks(2, [1]))],
    };
    await expect(tipOf([full!, delta], ring('other'))).rejects.toMatchObject({ fault: 'wrong-key' });
    const both = await tipOf([full!, delta], ring('other', 'pässwörd'));
    expect(Buffer.compare(both, restored([full!, delta], 8 * MIB))).toBe(0);
  });
});

test('a key is derived once for a set, as long as the keyring is the same', async () => {
  const files = threeFiles().map(file => ({ ...file, encryption: { ...encryption(128), iterations: 400_000 } }));
  const store = storeOf(files);
  const keys = ring('pässwörd');
  const time = async (): Promise<number> => {
    const start = performance.now();
    await using _ = await macrium.open(nameOf(1), store, keys);
    return performance.now() - start;
  };
  const first = await time();
  expect(await time()).toBeLessThan(first / 2);
});

/** Files that lie. Checksums are made right again after each lie, so that the reader gets to believe it. */
import { createHash } from 'node:crypto';
import zlib from 'node:zlib';
import { describe, expect, test } from 'vitest';
import type { Keyring } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { type Random, random } from '../../test/kit/random.ts';
import { openStack } from '../../test/kit/reference.ts';
import { counted } from '../../test/kit/tampered.ts';
import { frameContentSize } from './codec.ts';
import { parseDescription } from './description.ts';
import { buildFile, bytesOf, type FileSpec } from './fixtures.ts';
import { macrium } from './index.ts';
import { fatDisk, gptDisk, nameOf, simpleDisk, threeFiles } from './shapes.ts';

const LONG = process.env.BOOTMOUNT_LONG === '1';
const CASES = LONG ? 1_000_000 : 20_000;
const FILES = LONG ? 20_000 : 250;
const PATIENCE = LONG ? 3_600_000 : 60_000;
const NO_KEYS: Keyring = { secrets: async () => [] };

/** Where the payloads of metadata blocks lie, found by their names. */
function payloads(file: Uint8Array): { name: string; headerAt: number; length: number }[] {
  const raw = Buffer.from(file.buffer, file.byteOffset, file.length);
  const found = [];
  for (const name of ['$TRACK0 ', '$EPT    ', '$INDEX  ', '$JSON   ']) {
    for (let at = raw.indexOf(name, 0, 'latin1'); at >= 0; at = raw.indexOf(name, at + 8, 'latin1'))
      found.push({ name: name.trimEnd(), headerAt: at, length: raw.readUInt32LE(at + 8) });
  }
  return found;
}

function resum(file: Uint8Array, headerAt: number, length: number): void {
  const payload = file.subarray(headerAt + 32, headerAt + 32 + length);
  file.set(createHash('md5').update(payload).digest(), headerAt + 12);
}

const ODD = [0, 1, 2, 7, 511, 512, 65_535, 65_536, 2 ** 31, 2 ** 32 - 1, 2 ** 53, 1e308, -1, 0.5];
const STRANGE: readonly unknown[] = [...ODD, '', 'x', 'none', 'zstd', null, true, false, [], {}, [[]], 'aes-256'];

/** Puts something else into one place of a JSON value. */
function bend(value: unknown, { below, pick }: Random): unknown {
  if (typeof value !== 'object' || value === null || below(12) === 0) return pick(STRANGE);
  if (Array.isArray(value)) {
    if (value.length === 0 || below(8) === 0) return [...value, ...value];
    const i = below(value.length);
    return value.with(i, bend(value[i], { below, pick }));
  }
  const key = pick(Object.keys(value));
  if (key === undefined) return pick(STRANGE);
  const { [key]: old, ...rest } = value as Record<string, unknown>;
  return below(8) === 0 ? rest : { ...rest, [key]: bend(old, { below, pick }) };
}

/** Opens and reads: right away, or refused by an ImageError; nothing stays open. */
async function survives(file: Uint8Array, what: string): Promise<'read' | 'refused'> {
  const { store, open } = counted(memoryStore({ [nameOf(0)]: file }));
  const start = performance.now();
  let outcome: 'read' | 'refused' = 'read';
  try {
    await using stack = await openStack({ adapter: macrium, store, name: nameOf(0), keys: NO_KEYS });
    for (const at of [0, 17_408, 1_048_576, Math.floor(stack.size / 2), stack.size - 512]) {
      if (at >= 0 && at + 512 <= stack.size) await stack.read(new Uint8Array(512), at);
    }
  } catch (error) {
    if (!(error instanceof ImageError)) throw new Error(`${what}: ${String(error)}`, { cause: error });
    outcome = 'refused';
  }
  expect(performance.now() - start, what).toBeLessThan(5000);
  expect(open(), what).toBe(0);
  return outcome;
}

const FILE: FileSpec = { number: 0, disks: [gptDisk(), fatDisk(), simpleDisk(new Map())], shortIndex: true };

describe('fuzzing', { timeout: PATIENCE }, () => {
  test('descriptions: parsed, or refused by an ImageError that quotes nothing of them', () => {
    const texts: string[] = [];
    buildFile({ ...FILE, edit: description => void texts.push(JSON.stringify(description)) });
    const whole: unknown = JSON.parse(texts[0]!);
    const source = random(11);
    let parsed = 0;
    for (let i = 0; i < CASES; i++) {
      const bent = JSON.stringify(source.below(3) === 0 ? bend(bend(whole, source), source) : bend(whole, source));
      const cut = source.below(10) === 0 ? bent.slice(0, source.below(bent.length)) : bent;
      try {
        parseDescription(cut, 'f', 0);
        parsed++;
      } catch (error) {
        if (!(error instanceof ImageError)) throw error;
        expect(error.message.length).toBeLessThan(200);
      }
    }
    expect(parsed).toBeGreaterThan(CASES / 20);
    expect(parsed).toBeLessThan(CASES);
  });

  test('files with a lie in a description, an index or another block', async () => {
    const whole = bytesOf(buildFile(FILE));
    const source = random(12);
    const outcomes = { read: 0, refused: 0 };
    for (let i = 0; i < FILES; i++) {
      const file = whole.slice();
      const { name, headerAt, length } = source.pick(payloads(file));
      const at = headerAt + 32;
      if (name === '$JSON') {
        const text = zlib.zstdDecompressSync(file.subarray(at, at + length)).toString();
        const bent = zlib.zstdCompressSync(Buffer.from(JSON.stringify(bend(JSON.parse(text), source))));
        if (bent.length > length) continue;
        file.fill(0, at, at + length);
        file.set(bent, at);
      } else {
        const view = new DataView(file.buffer, at, length);
        const put = source.below(Math.max(1, Math.min(length, 200) - 4));
        if (length >= 4) view.setUint32(put, source.pick(ODD) >>> 0, true);
      }
      resum(file, headerAt, length);
      outcomes[await survives(file, `case ${i} in ${name}`)]++;
    }
    expect(outcomes.read).toBeGreaterThan(0);
    expect(outcomes.refused).toBeGreaterThan(0);
  });

  test('frame headers', () => {
    const { below } = random(13);
    for (let i = 0; i < CASES; i++) {
      const head = Uint8Array.from({ length: below(40) }, () => below(256));
      head.set([0x28, 0xb5, 0x2f, 0xfd].slice(0, head.length));
      const size = frameContentSize(head);
      if (size !== null) expect(Number.isSafeInteger(size) && size >= 0).toBe(true);
    }
    for (const length of [0, 1, 255, 256, 65_536, 70_000]) {
      const frame = new Uint8Array(18);
      frame.set(zlib.zstdCompressSync(Buffer.alloc(length, 3)).subarray(0, 18));
      expect(frameContentSize(frame)).toBe(length);
    }
  });
});

describe('refused by name', () => {
  const edited = (
    change: (description: Record<string, Record<string, unknown>>) => void,
  ): Promise<'read' | 'refused'> =>
    macrium
      .open(
        nameOf(0),
        memoryStore({ [nameOf(0)]: bytesOf(buildFile({ ...FILE, edit: change as NonNullable<FileSpec['edit']> })) }),
        NO_KEYS,
      )
      .then(image => image[Symbol.asyncDispose]())
      .then(() => 'read');
  test.each([
    ['a compression', { _compression: { compression_level: 'medium', compression_method: 'lzma' } }, '"lzma"'],
    ['a level of it', { _compression: { compression_level: 'extreme' } }, '"extreme"'],
    ['a cipher', { _encryption: { enable: true, aes_type: 'twofish' } }, '"twofish"'],
    ['no cipher', { _encryption: { enable: true } }, 'aes_type'],
    ['a derivation', { _encryption: { aes_type: 'aes-128', key_derivation: 'scrypt' } }, 'key_derivation'],
    ['endless rounds', { _encryption: { aes_type: 'aes-128', key_iterations: 2 ** 31 } }, 'key_iterations'],
  ])('%s', async (_, change, named) => {
    await expect(edited(description => Object.assign(description, change))).rejects.toThrow(named);
  });

  const withBytes = (change: (file: Buffer, where: ReturnType<typeof payloads>) => void) => {
    const file = bytesOf(buildFile({ number: 0, disks: [simpleDisk(new Map())] }));
    change(Buffer.from(file.buffer), payloads(file));
    return macrium.open(nameOf(0), memoryStore({ [nameOf(0)]: file }), NO_KEYS);
  };
  const headerOf = (where: ReturnType<typeof payloads>, name: string): number =>
    where.find(block => block.name === name)!.headerAt;

  test.each([
    ['unknown flags', 'unsupported', (at: number, file: Buffer) => file.writeUInt8(0x09, at + 28)],
    ['a packed index', 'unsupported', (at: number, file: Buffer) => file.writeUInt8(0x03, at + 28)],
    ['four thousand million blocks', 'corrupt', (at: number, file: Buffer) => file.writeUInt32LE(0xffff_ffff, at + 36)],
    ['as many reserved ones', 'corrupt', (at: number, file: Buffer) => file.writeUInt32LE(0xffff_ffff, at + 32)],
    ['an index past the end', 'corrupt', (at: number, file: Buffer) => file.writeUInt32LE(0x7fff_ffff, at + 8)],
  ] as const)('%s', async (_, fault, change) => {
    const opened = withBytes((file, where) => void change(headerOf(where, '$INDEX'), file));
    await expect(opened).rejects.toMatchObject({ fault, where: { file: nameOf(0) } });
  });

  test('a root outside the file, and a description that is a bomb', async () => {
    await expect(withBytes(file => void file.writeBigUInt64LE(2n ** 60n, file.length - 20))).rejects.toThrow();
    await expect(withBytes(file => void file.writeUInt32LE(file.length, file.length - 20))).rejects.toThrow('outside');
    const bomb = bytesOf(buildFile({ ...FILE, edit: d => Object.assign(d, { comment: 'a'.repeat(2 ** 26) }) }));
    expect(bomb.length).toBeLessThan(2 ** 25);
    const before = process.memoryUsage().rss;
    const start = performance.now();
    const opened = macrium.open(nameOf(0), memoryStore({ [nameOf(0)]: bomb }), NO_KEYS);
    await expect(opened).rejects.toThrow('$JSON does not decompress');
    expect(performance.now() - start).toBeLessThan(1000);
    expect(process.memoryUsage().rss - before).toBeLessThan(64 * 1_048_576);
  });

  test('a cut off file, and one of an older Reflect', async () => {
    const file = bytesOf(buildFile({ number: 0, disks: [simpleDisk(new Map())] })).subarray(0, 30_000);
    const open = (name: string) => macrium.open(name, memoryStore({ [name]: file }), NO_KEYS);
    await expect(open('a.mrimgx')).rejects.toMatchObject({
      fault: 'corrupt',
      message: expect.stringContaining('cut off'),
    });
    await expect(open('a.mrimg')).rejects.toMatchObject({ fault: 'unsupported' });
    expect(macrium.probe(file, file, 'a.MRIMG')).toBe('maybe');
    expect(macrium.probe(file, file, 'a.img')).toBe('no');
  });

  test('a block that unpacks to more than its size, or lies in the metadata, is an error when it is read', async () => {
    const [full] = threeFiles();
    const built = buildFile(full!);
    const raw = bytesOf(built);
    const [{ at, length }] = built.indexes as [{ at: number; length: number }];
    const view = new DataView(raw.buffer, at, length);
    view.setUint32(8, at, true);
    view.setUint32(8 + 30 + 24, 0x00ff_ffff, true);
    view.setUint32(8 + 60 + 4, 0x4000_0000, true);
    resum(raw, at - 32, length);
    await using stack = await openStack({
      adapter: macrium,
      store: memoryStore({ [nameOf(0)]: raw }),
      name: nameOf(0),
      keys: NO_KEYS,
    });
    const read = (block: number): Promise<void> => stack.read(new Uint8Array(512), 1_048_576 + block * 65_536);
    await expect(read(0)).rejects.toThrow('reaches past the data of the file');
    await expect(read(1)).rejects.toThrow('has 16777215 bytes for 65536');
    await expect(read(2)).rejects.toThrow('a position that no file has');
    await read(10);
  });
});

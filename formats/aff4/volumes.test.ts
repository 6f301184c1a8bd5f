/** Volumes that are made here: every compression, symbolic streams, several volumes, damage. */
import { hash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import type { Image, Keyring, Problem } from '../../src/base/contracts.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { type Compression, snappyEncode, type VolumeSpec, volumeFile, zipFile } from './fixtures.ts';
import { aff4 } from './index.ts';

const NO_KEYS: Keyring = { secrets: async () => [] };
const VOLUME = 'aff4://685e15cc-d0fb-4dbc-ba47-48117fc77044';
const SECOND = 'aff4://51725cd9-3769-4be7-a8ab-94e3ea62bf9a';
const STREAM = `${VOLUME}/image%20stream`;
const OTHER = 'aff4://3bf0bd14-1ef9-4185-8b0a-2c7d511b4d30';
const MAP = 'aff4://fcbfdce7-4488-4677-abf6-08bc931e195b';
const IMAGE = 'aff4://cf853d0b-5589-4c7c-8358-2ca1572b87eb';
const SCHEMA = 'http://aff4.org/Schema#';
const CHUNK = 4096;

const CONTENT = Uint8Array.from({ length: 10 * CHUNK }, (_, i) =>
  Math.floor(i / CHUNK) % 3 === 0 ? 7 : (i * 31 + (i >> 7)) % 256,
);

type Files = Record<string, Uint8Array>;
const open = (files: Files, name = 'a.aff4'): Promise<Image> => aff4.open(name, memoryStore(files), NO_KEYS);

async function whole(image: Image): Promise<Uint8Array> {
  const { layer, size } = image.points[0]!.disks[0]!;
  const out = new Uint8Array(size).fill(0xcc);
  const unit = new Uint8Array(layer!.blockSize);
  for (let at = 0; at < size; ) {
    const place = layer!.locate(at, size - at);
    if (place === null) {
      await layer!.load(at, size - at);
      continue;
    }
    const part = out.subarray(at, at + place.length);
    if (place.kind === 'plain') await place.source.read(part, place.at);
    else if (place.kind === 'packed') {
      await layer!.unpack(place.unit, unit);
      part.set(unit.subarray(place.within, place.within + part.length));
    } else part.fill(0);
    at += place.length;
  }
  return out;
}

async function verify(image: Image, level: 1 | 2 | 3 = 3): Promise<readonly Problem[]> {
  const problems: Problem[] = [];
  const { signal } = new AbortController();
  await image.verify!({ level, found: problem => problems.push(problem), progress: () => {}, signal });
  return problems;
}

const plain = (more: Partial<VolumeSpec> = {}): VolumeSpec => ({
  name: VOLUME,
  image: IMAGE,
  size: CONTENT.length,
  streams: [{ name: STREAM, content: CONTENT }],
  ...more,
});

const mapped = (target: string, more: Partial<VolumeSpec> = {}): VolumeSpec =>
  plain({
    size: 4 * CHUNK,
    map: {
      name: MAP,
      targets: [STREAM, `${SCHEMA}${target}`],
      ranges: [
        { start: 0, length: 100, targetAt: CHUNK + 3, target: 0 },
        { start: 512, length: CHUNK, targetAt: 2 ** 20 - 512, target: 1 },
        { start: 3 * CHUNK, length: CHUNK, targetAt: 0, target: 0 },
      ],
    },
    ...more,
  });

const faultOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'none',
    (error: { fault?: string }) => error.fault ?? String(error),
  );

test('every compression, with and without digests, and a last chunk that is not whole', async () => {
  for (const compression of ['snappy', 'lz4', 'deflate', 'zlib', 'none'] as Compression[]) {
    for (const hashes of [[], ['md5'], ['blake2b', 'sha256', 'sha512']] as const) {
      const content = CONTENT.subarray(0, CONTENT.length - 1000);
      const spec = plain({ size: content.length, streams: [{ name: STREAM, content, compression, hashes }] });
      await using image = await open({ 'a.aff4': volumeFile(spec) });
      expect(Buffer.compare(await whole(image), content), `${compression} ${hashes}`).toBe(0);
      expect(await verify(image)).toEqual([]);
    }
  }
});

describe('maps', () => {
  const want = (pattern: Uint8Array): Uint8Array => {
    const out = new Uint8Array(4 * CHUNK);
    out.set(CONTENT.subarray(CHUNK + 3, CHUNK + 103));
    out.set(pattern, 512);
    out.set(CONTENT.subarray(0, CHUNK), 3 * CHUNK);
    return out;
  };
  const repeated = (text: string): Uint8Array => {
    const tile = Buffer.alloc(2 ** 20, text);
    return Buffer.concat([tile.subarray(-512), tile.subarray(0, CHUNK - 512)]);
  };

  test('gaps are zeros, symbolic streams what the standard says', async () => {
    for (const [target, pattern] of [
      ['Zero', new Uint8Array(CHUNK)],
      ['SymbolicStreamA5', new Uint8Array(CHUNK).fill(0xa5)],
      ['UnknownData', repeated('UNKNOWN')],
    ] as const) {
      await using image = await open({ 'a.aff4': volumeFile(mapped(target)) });
      expect(Buffer.compare(await whole(image), want(pattern)), target).toBe(0);
      expect(await verify(image)).toEqual([]);
      expect(image.warnings).toHaveLength(target === 'UnknownData' ? 1 : 0);
    }
  });

  test('what could not be read when the image was made cannot be read now; the digest of the disk still holds', async () => {
    const sha1 = hash('sha1', want(repeated('UNREADABLEDATA')));
    const spec = mapped('UnreadableData', { linear: { sha1 } });
    await using image = await open({ 'a.aff4': volumeFile(spec) });
    expect(await faultOf(whole(image))).toBe('io');
    expect(image.warnings).toEqual([expect.stringMatching(/could not be read/)]);
    expect(await verify(image)).toMatchObject([
      { fault: 'io', message: expect.stringMatching(/^4096 bytes from 512/) },
    ]);
    await using wrong = await open({ 'a.aff4': volumeFile({ ...spec, linear: { sha1: hash('sha1', 'x') } }) });
    expect(await verify(wrong)).toMatchObject([
      { fault: 'io' },
      { message: expect.stringMatching(/^the sha1 of the disk/) },
    ]);
  });

  test('entries out of order, over the end, or to streams that are not there are refused', async () => {
    const range = { start: 0, length: CHUNK, targetAt: 0, target: 0 };
    for (const ranges of [
      [{ ...range, start: CHUNK }, range],
      [range, { ...range, start: CHUNK - 1 }],
      [{ ...range, length: 5 * CHUNK }],
      [{ ...range, length: 0 }],
      [{ ...range, target: 2 }],
      [{ ...range, targetAt: CONTENT.length - CHUNK + 1 }],
      [{ ...range, start: 2 ** 53 - 1 }],
    ]) {
      const map = { name: MAP, targets: [STREAM], ranges };
      await using image = await open({ 'a.aff4': volumeFile(plain({ size: 4 * CHUNK, map })) });
      expect(await faultOf(whole(image)), JSON.stringify(ranges)).toBe('corrupt');
    }
  });
});

describe('several volumes', () => {
  const ranges = Array.from({ length: 10 }, (_, i) => ({
    start: i * CHUNK,
    length: CHUNK,
    targetAt: Math.floor(i / 2) * CHUNK,
    target: i % 2,
  }));
  const half = (odd: number): Uint8Array =>
    Buffer.concat(
      ranges.filter(({ target }) => target === odd).map(({ start }) => CONTENT.subarray(start, start + CHUNK)),
    );
  const targets = [STREAM, OTHER];
  const files: Files = {
    'b_1.aff4': volumeFile(
      plain({
        map: { name: MAP, targets, ranges },
        streams: [{ name: STREAM, content: half(0) }],
        elsewhere: [{ name: OTHER, volume: SECOND }],
      }),
    ),
    'b_2.aff4': volumeFile(
      plain({
        name: SECOND,
        map: { name: `${MAP}2`, targets, ranges },
        streams: [{ name: OTHER, content: half(1), compression: 'deflate' }],
        elsewhere: [{ name: STREAM, volume: VOLUME }],
      }),
    ),
    'other.aff4': volumeFile(plain({ name: 'aff4://0adda6d6-97c5-4842-8981-dec2a3373215' })),
  };

  test('the first one by name stands for all', async () => {
    await using image = await open(files, 'b_1.aff4');
    expect(Buffer.compare(await whole(image), CONTENT)).toBe(0);
    expect(await verify(image)).toEqual([]);
    await using second = await open(files, 'b_2.aff4');
    expect(second.points).toEqual([]);
  });

  test('by whatever names they go', async () => {
    await using image = await open({ 'x.aff4': files['b_2.aff4']!, 'y.aff4': files['b_1.aff4']! }, 'x.aff4');
    expect(Buffer.compare(await whole(image), CONTENT)).toBe(0);
  });

  test('a missing one breaks the image, by name', async () => {
    const { 'b_2.aff4': _, ...alone } = files;
    await using image = await open(alone, 'b_1.aff4');
    expect(image.points[0]!.problem).toMatchObject({
      fault: 'broken-chain',
      message: expect.stringMatching(new RegExp(SECOND)),
    });
    expect(image.points[0]!.disks).toEqual([]);
    expect(await verify(image)).toMatchObject([{ fault: 'broken-chain' }]);
  });
});

describe('damage', () => {
  test('a flipped byte of a bevy is an error for that chunk alone, and verify finds it', async () => {
    for (const compression of ['snappy', 'none'] as const) {
      const file = volumeFile(plain({ streams: [{ name: STREAM, content: CONTENT, compression }] }));
      const at = Buffer.from(file).indexOf(Buffer.from(CONTENT.subarray(CHUNK + 50, CHUNK + 90)));
      file[at + 10]! ^= 1;
      await using image = await open({ 'a.aff4': file });
      const { layer } = image.points[0]!.disks[0]!;
      const unit = new Uint8Array(layer!.blockSize);
      expect(await faultOf(layer!.unpack(1, unit)), compression).toBe('corrupt');
      await layer!.unpack(2, unit);
      expect(Buffer.compare(unit.subarray(0, CHUNK), CONTENT.subarray(2 * CHUNK, 3 * CHUNK))).toBe(0);
      expect(await verify(image, 1)).toMatchObject([{ fault: 'corrupt' }]);
      expect(await verify(image, 3)).toMatchObject([{ fault: 'corrupt', block: 1 }]);
    }
  });

  test('without digests of the chunks the checksum of the bevy finds it', async () => {
    const file = volumeFile(plain({ streams: [{ name: STREAM, content: CONTENT, compression: 'none', hashes: [] }] }));
    file[Buffer.from(file).indexOf(Buffer.from(CONTENT.subarray(CHUNK + 50, CHUNK + 90)))]! ^= 1;
    await using image = await open({ 'a.aff4': file });
    for (const level of [1, 3] as const) {
      expect((await verify(image, level)).map(({ message }) => message)[0]).toMatch(/checksum of "image%20stream\/0/);
    }
  });

  test('stored digests that are of something else', async () => {
    const swap = (from: string, to: string) => (members: Files) => {
      const turtle = Buffer.from(members['information.turtle']!).toString();
      members['information.turtle'] = Buffer.from(turtle.replace(from, to));
    };
    const sum = hash('md5', CONTENT);
    for (const [changed, what] of [
      [swap(sum, hash('md5', 'x')), /^the md5 of the stream/],
      [swap('mapPointHash "', 'mapPointHash "0'), /^the digest of the map is/],
    ] as const) {
      await using image = await open({ 'a.aff4': volumeFile(mapped('Zero', { changed })) });
      expect((await verify(image)).map(({ message }) => message)[0]).toMatch(what);
    }
  });

  test('members that are missing or too short', async () => {
    for (const [name, fault] of [
      ['version.txt', 'unsupported'],
      ['information.turtle', 'corrupt'],
      ['image%20stream/00000001', 'corrupt'],
      ['image%20stream/00000002.index', 'corrupt'],
      ['image%20stream/00000001.blockHash.sha1', 'corrupt'],
    ] as const) {
      for (const content of [undefined, new Uint8Array(3)]) {
        const changed = (members: Files): void => {
          if (content === undefined) delete members[name];
          else members[name] = content;
        };
        const opened = async (): Promise<void> => {
          await using image = await open({ 'a.aff4': volumeFile(plain({ changed })) });
          await whole(image);
        };
        expect(await faultOf(opened()), `${name} ${content?.length}`).toBe(fault);
      }
    }
  });
});

test('what cannot be read is refused by name', async () => {
  const described = (more: string, changes: Partial<VolumeSpec> = {}): Promise<Image> =>
    open({ 'a.aff4': volumeFile(plain({ more, ...changes })) });
  await expect(described('', { version: 'major=2\nminor=0\n' })).rejects.toMatchObject({ fault: 'unsupported' });
  await expect(described('<x> a (1 2) .')).rejects.toMatchObject({ fault: 'corrupt' });
  await expect(described(`<x> a ${'['.repeat(2000)}`)).rejects.toMatchObject({ fault: 'corrupt' });
  const encrypted = mapped('Zero', {
    more: `<${OTHER}> a aff4:EncryptedStream ; aff4:size "9" ; aff4:stored : .`,
    map: { name: MAP, targets: [OTHER], ranges: [] },
  });
  await using image = await open({ 'a.aff4': volumeFile(encrypted) });
  expect(image.points[0]!.problem).toMatchObject({
    fault: 'unsupported',
    message: expect.stringMatching(/EncryptedStream/),
  });
  const files = zipFile({ 'container.description': Buffer.from(VOLUME) }, '');
  expect(aff4.probe(files, files, 'x.zip')).toBe('certain');
  const other = zipFile({ 'a.txt': Buffer.from('x') }, '');
  expect(aff4.probe(other, other, 'x.aff4')).toBe('no');
});

test('Turtle as other writers have it', async () => {
  const more = `
    # a comment
    @base <aff4://base> .
    PREFIX x: <http://example.org/>
    <${IMAGE}> x:a.b 'one' , """two "quoted"
    lines"""@en-GB , 5 , -1.5e3 , true ; x:c [ x:d <rel> ; ] , [] ;; .
    _:node x:e <${IMAGE}> .`;
  await using image = await open({ 'a.aff4': volumeFile(plain({ more })) });
  expect(image.notes).toEqual(['drive: S"12']);
});

test('what snappy writes in each of its forms', async () => {
  const { snappyBlock } = await import('../../src/base/packing/snappy.ts');
  const out = new Uint8Array(200);
  // Literals, then copies with offsets of 1, 2 and 4 bytes.
  const packed = [21, 4 << 2, 97, 98, 99, 100, 101, 1, 5, (5 << 2) | 2, 2, 0, (5 << 2) | 3, 1, 0, 0, 0];
  expect(snappyBlock(Uint8Array.from(packed), out)).toBe(21);
  expect(Buffer.from(out.subarray(0, 21)).toString()).toBe('abcdeabcdcdcdcddddddd');
  expect(() => snappyBlock(snappyEncode(new Uint8Array(300)), out)).toThrow(RangeError);
  for (let cut = 0; cut < packed.length; cut++) {
    expect(() => snappyBlock(Uint8Array.from(packed.slice(0, cut)), out)).toThrow(RangeError);
  }
});

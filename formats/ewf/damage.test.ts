import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Image, Keyring, Problem, Store } from '../../src/base/contracts.ts';
import { viewOf } from '../../src/base/struct.ts';
import { localStore } from '../../src/stores/local.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { scratch } from '../../test/kit/samples.ts';
import { counted } from '../../test/kit/tampered.ts';
import { type EwfSpec, ewfFiles, fileHeader, section, summed, tableBody, volumeBody } from './fixtures.ts';
import { ewf } from './index.ts';
import { segmentNames } from './names.ts';
import { Descriptor, FILE_HEADER, RELATIVES } from './structs.ts';

const NO_KEYS: Keyring = { secrets: async () => [] };
const CHUNK = 4096;
const CONTENT = Uint8Array.from({ length: 10 * CHUNK + 512 }, (_, i) => (i * 7 + Math.floor(i / 251)) % 256);

type Files = Record<string, Uint8Array>;

const openFiles = (files: Files, name = 'made.E01'): Promise<Image> => ewf.open(name, memoryStore(files), NO_KEYS);

async function readUnit(image: Image, unit: number): Promise<Uint8Array> {
  const into = new Uint8Array(CHUNK);
  await image.points[0]!.disks[0]!.layer!.unpack(unit, into);
  return into.subarray(0, Math.min(CHUNK, CONTENT.length - unit * CHUNK));
}

const chunkOf = (unit: number): Uint8Array => CONTENT.subarray(unit * CHUNK, (unit + 1) * CHUNK);

async function verify(image: Image, level: 1 | 2 | 3 = 3): Promise<readonly Problem[]> {
  const problems: Problem[] = [];
  const { signal } = new AbortController();
  await image.verify!({ level, found: problem => problems.push(problem), progress: () => {}, signal });
  return problems;
}

/** Where the sections of a type begin. */
function sectionsIn(file: Uint8Array, type: string): readonly number[] {
  const found: number[] = [];
  for (let at = FILE_HEADER; ; ) {
    const { type: raw, next } = Descriptor.parse(file, at);
    if (Buffer.from(raw).toString('latin1').replace(/\0+$/, '') === type) found.push(at);
    if (next <= at) return found;
    at = next;
  }
}

/** A file of `made.E01` with some bytes changed. */
function changed(spec: EwfSpec, change: (file: Uint8Array) => void): Files {
  const files = ewfFiles(spec);
  change(files['made.E01']!);
  return files;
}

const SPEC: EwfSpec = { content: CONTENT, compressed: true };

test('what the fixtures write is read, in every form', async () => {
  for (const spec of [
    SPEC,
    { content: CONTENT },
    { ...SPEC, perSegment: 1, perTable: 2 },
    { ...SPEC, copies: false },
  ]) {
    await using image = await openFiles(ewfFiles(spec));
    for (let unit = 0; unit < 11; unit++) expect(await readUnit(image, unit)).toEqual(chunkOf(unit));
    for (const level of [1, 2, 3] as const) expect(await verify(image, level)).toEqual([]);
  }
});

describe('segments', () => {
  const SPLIT: EwfSpec = { ...SPEC, perSegment: 1, perTable: 2 };

  test('their names', () => {
    const upper = segmentNames('a/b.E01', 1)!;
    const names = [1, 99, 100, 101, 125, 126, 775, 776, 14_971].map(number => upper.nameOf(number));
    const want = ['E01', 'E99', 'EAA', 'EAB', 'EAZ', 'EBA', 'EZZ', 'FAA', 'ZZZ'];
    expect(names).toEqual(want.map(extension => `a/b.${extension}`));
    expect(upper.nameOf(14_972)).toBeNull();
    expect(segmentNames('x.faa', 776)!.nameOf(2)).toBe('x.e02');
    expect(segmentNames('x.saa', 100)!.nameOf(1)).toBe('x.s01');
    expect(segmentNames('x.E02', 1)).toBeNull();
    expect(segmentNames('x', 1)).toBeNull();
  });

  test('a missing one breaks the image, by name, wherever it is missing', async () => {
    for (const missing of ['made.E02', 'made.E04', 'made.E06']) {
      const files = ewfFiles(SPLIT);
      delete files[missing];
      await using image = await openFiles(files);
      expect(image.points[0]!.problem).toMatchObject({ fault: 'broken-chain', where: { file: missing } });
      expect(image.points[0]!.disks[0]).toMatchObject({ size: CONTENT.length, layer: null });
      expect(await verify(image)).toMatchObject([{ fault: 'broken-chain', file: missing }]);
    }
  });

  test('the first one stands for all; without it the lowest one says so', async () => {
    const files = ewfFiles(SPLIT);
    await using later = await openFiles(files, 'made.E03');
    expect(later.points).toEqual([]);
    delete files['made.E01'];
    await expect(openFiles(files, 'made.E02')).rejects.toMatchObject({
      fault: 'broken-chain',
      where: { file: 'made.E01' },
    });
    await using quiet = await openFiles(files, 'made.E03');
    expect(quiet.points).toEqual([]);
  });

  test('one with the number or the disk of another is refused', async () => {
    const files = ewfFiles(SPLIT);
    await using swapped = await openFiles({ ...files, 'made.E02': files['made.E03']! });
    expect(swapped.points[0]!.problem).toMatchObject({ fault: 'broken-chain', where: { file: 'made.E02' } });
    const other = ewfFiles({ ...SPLIT, content: CONTENT.subarray(512) });
    await using mixed = await openFiles({ ...files, 'made.E02': other['made.E02']! });
    await expect(readUnit(mixed, 0)).rejects.toMatchObject({ fault: 'broken-chain', where: { file: 'made.E02' } });
  });

  test('the end of one is cut off', async () => {
    const files = ewfFiles(SPLIT);
    await using image = await openFiles({ ...files, 'made.E06': files['made.E06']!.subarray(0, -100) });
    expect(image.points[0]!.problem).toMatchObject({ fault: 'corrupt', where: { file: 'made.E06' } });
  });

  test('what stands behind the last section does not matter', async () => {
    const files = ewfFiles(SPLIT);
    const padded = (file: Uint8Array): Uint8Array => Buffer.concat([file, new Uint8Array(4096).fill(0xee)]);
    await using image = await openFiles(Object.fromEntries(Object.entries(files).map(([n, f]) => [n, padded(f)])));
    expect(image.points[0]!.problem).toBeNull();
    for (let unit = 0; unit < 11; unit++) expect(await readUnit(image, unit)).toEqual(chunkOf(unit));
  });

  test('many of them do not stay open at once', async () => {
    const content = new Uint8Array(90 * 512).map((_, i) => i % 255);
    const files = ewfFiles({ content, sectorsPerChunk: 1, perTable: 1, perSegment: 1 });
    expect(Object.keys(files)).toHaveLength(90);
    const { store, open } = counted(memoryStore(files) as Store);
    const image = await ewf.open('made.E01', store, NO_KEYS);
    const { layer } = image.points[0]!.disks[0]!;
    const read = async (unit: number): Promise<void> => {
      const into = new Uint8Array(512);
      await layer!.unpack(unit, into);
      expect(into).toEqual(content.subarray(unit * 512, unit * 512 + 512));
    };
    for (let round = 0; round < 3; round++) {
      await Promise.all(Array.from({ length: 90 }, (_, i) => read((i * 37) % 90)));
      expect(open()).toBeLessThanOrEqual(32);
    }
    await image[Symbol.asyncDispose]();
    expect(open()).toBe(0);
    await expect(read(1)).rejects.toMatchObject({ fault: 'io' });
  });
});

describe('damage', () => {
  const tableEntry = (file: Uint8Array, type: 'table' | 'table2', entry: number): number =>
    sectionsIn(file, type)[1]! + Descriptor.size + 24 + entry * 4;
  const flip = (file: Uint8Array, at: number): void => {
    file[at]! ^= 0x10;
  };

  test('a flipped byte in a chunk is an error for that chunk alone, and verify finds it', async () => {
    for (const compressed of [true, false]) {
      const files = changed({ ...SPEC, compressed }, file => flip(file, sectionsIn(file, 'sectors')[0]! + 76 + 40));
      await using image = await openFiles(files);
      await expect(readUnit(image, 0)).rejects.toMatchObject({ fault: 'corrupt', where: { file: 'made.E01' } });
      expect(await readUnit(image, 1)).toEqual(chunkOf(1));
      expect(await verify(image, 3)).toMatchObject([{ fault: 'corrupt', disk: 'disk0', block: 0 }]);
    }
  });

  test('a damaged entry of a table: the copy is right', async () => {
    const files = changed(SPEC, file => flip(file, tableEntry(file, 'table', 2)));
    await using image = await openFiles(files);
    for (let unit = 0; unit < 11; unit++) expect(await readUnit(image, unit)).toEqual(chunkOf(unit));
    expect(await verify(image, 1)).toMatchObject([
      { fault: 'corrupt', message: expect.stringMatching(/the table for/) },
    ]);
    expect(await verify(image, 3)).toHaveLength(1);
  });

  test('a damaged entry in both: an error there, and nowhere else', async () => {
    const files = changed(SPEC, file => {
      flip(file, tableEntry(file, 'table', 2));
      flip(file, tableEntry(file, 'table2', 2));
    });
    await using image = await openFiles(files);
    for (const unit of [0, 4, 5, 8, 9, 10]) expect(await readUnit(image, unit)).toEqual(chunkOf(unit));
    await expect(readUnit(image, 7)).rejects.toMatchObject({ fault: 'corrupt' });
  });

  test('a damaged head of a table: its copy takes its place', async () => {
    const files = changed(SPEC, file => flip(file, sectionsIn(file, 'table')[1]! + 77));
    await using image = await openFiles(files);
    for (let unit = 0; unit < 11; unit++) expect(await readUnit(image, unit)).toEqual(chunkOf(unit));
    expect(await verify(image, 1)).toMatchObject([{ message: expect.stringMatching(/its copy is used/) }]);
    const alone = changed({ ...SPEC, copies: false }, file => flip(file, sectionsIn(file, 'table')[1]! + 77));
    await using lost = await openFiles(alone);
    await expect(readUnit(lost, 0)).rejects.toMatchObject({ fault: 'corrupt' });
  });

  test('a digest that is not the one of the disk is found at level 3', async () => {
    await using image = await openFiles(ewfFiles({ ...SPEC, md5: new Uint8Array(16).fill(9) }));
    expect(await verify(image, 2)).toEqual([]);
    expect(await verify(image, 3)).toMatchObject([{ fault: 'corrupt', message: expect.stringMatching(/^the MD5/) }]);
  });

  test('sectors that were unreadable when the image was made are told', async () => {
    await using image = await openFiles(ewfFiles({ ...SPEC, errors: [[3, 5]] }));
    expect(await verify(image, 1)).toMatchObject([
      { fault: 'io', message: expect.stringMatching(/^5 sectors from 3/) },
    ]);
  });

  test('chunks that are in no table are missing, not empty', async () => {
    const files = ewfFiles(SPEC);
    const short = ewfFiles({ ...SPEC, content: CONTENT.subarray(0, 5 * CHUNK) })['made.E01']!;
    short.set(section('volume', FILE_HEADER, volumeBody(CONTENT.length, 8)), FILE_HEADER);
    await using image = await openFiles({ ...files, 'made.E01': short });
    expect(await readUnit(image, 4)).toEqual(chunkOf(4));
    await expect(readUnit(image, 5)).rejects.toMatchObject({ fault: 'corrupt' });
    expect(await verify(image, 2)).toMatchObject([{ block: 5 }]);
  });

  test('lists that lead back, out of the file or to absurd counts are refused', async () => {
    const volume = section('volume', FILE_HEADER, volumeBody(CONTENT.length, 8));
    const at = FILE_HEADER + volume.length;
    const absurd = summed(new Uint8Array(28), 20);
    viewOf(absurd).setUint32(0, 0xffff_ffff, true);
    for (const rest of [
      section('sectors', at, new Uint8Array(100), FILE_HEADER),
      section('sectors', at, new Uint8Array(100), at),
      section('sectors', at, new Uint8Array(100), 2 ** 40),
      Buffer.concat([section('sectors', at, new Uint8Array(100)), section('table', at + 176, summed(absurd, 20))]),
      section('table', at, tableBody([1], 0)),
    ]) {
      const done = section('done', at + rest.length, new Uint8Array(0), at + rest.length);
      const file = Buffer.concat([fileHeader(1), volume, rest, done]);
      await using image = await openFiles({ 'made.E01': file });
      await expect(readUnit(image, 0)).rejects.toMatchObject({ fault: 'corrupt' });
    }
  });

  test('sizes that no writer makes are refused', async () => {
    for (const [at, value, fault] of [
      [8, 0, 'unsupported'],
      [8, 65_536, 'unsupported'],
      [12, 513, 'unsupported'],
      [16, 0, 'corrupt'],
    ] as const) {
      const body = volumeBody(CONTENT.length, 8);
      viewOf(body).setUint32(at, value, true);
      const file = Buffer.concat([
        fileHeader(1),
        section('volume', FILE_HEADER, summed(body, 1048)),
        new Uint8Array(76),
      ]);
      await expect(openFiles({ 'made.E01': file })).rejects.toMatchObject({ fault });
    }
  });

  test('a description without its checksum is read with a warning', async () => {
    const files = changed(SPEC, file => viewOf(file).setUint32(FILE_HEADER + 76 + 1048, 0, true));
    await using image = await openFiles(files);
    expect(image.warnings).toHaveLength(1);
    expect(await readUnit(image, 3)).toEqual(chunkOf(3));
  });
});

test('relatives of the format are named and refused', async () => {
  for (const [signature, title] of RELATIVES) {
    const file = Buffer.alloc(4096);
    file.write(signature, 'latin1');
    expect(ewf.probe(file, file, 'x.E01')).toBe('certain');
    await expect(openFiles({ 'x.E01': file }, 'x.E01')).rejects.toMatchObject({ fault: 'unsupported', message: title });
  }
});

test('offsets beyond 2 GiB go on without the bit that says compressed', async () => {
  const folder = scratch();
  try {
    // Chunks of 16 MiB of zeros are holes in the file; only their checksums are written.
    const size = 16 * 2 ** 20;
    const chunks = 130;
    const volume = section('volume', FILE_HEADER, volumeBody(chunks * size, size / 512));
    const dataAt = FILE_HEADER + volume.length;
    const entries = Array.from({ length: chunks }, (_, i) => dataAt + Descriptor.size + i * (size + 4));
    const end = entries.at(-1)! + size + 4;
    const fd = fs.openSync(path.join(folder, 'big.E01'), 'w');
    fs.writeSync(fd, Buffer.concat([fileHeader(1), volume, section('sectors', dataAt, new Uint8Array(0), end)]));
    const sum = new Uint8Array(4);
    // Adler-32 of zeros: the first half stays 1, the second counts the bytes.
    viewOf(sum).setUint32(0, (size % 65_521) * 65_536 + 1, true);
    for (const at of entries) fs.writeSync(fd, sum, 0, 4, at + size);
    const mark = Buffer.from('the last but one');
    const last = entries[128]!;
    fs.writeSync(fd, mark, 0, mark.length, last);
    const whole = new Uint8Array(size + 4);
    whole.set(mark);
    fs.writeSync(fd, summed(whole, size), size, 4, last + size);
    const table = section('table', end, tableBody(entries, 0));
    const doneAt = end + table.length;
    fs.writeSync(fd, Buffer.concat([table, section('done', doneAt, new Uint8Array(0), doneAt)]), 0, undefined, end);
    fs.closeSync(fd);
    expect(entries[128]).toBeGreaterThan(2 ** 31);
    await using image = await ewf.open('big.E01', localStore(folder), NO_KEYS);
    const { layer } = image.points[0]!.disks[0]!;
    const into = new Uint8Array(size);
    for (const [unit, want] of [
      [126, 0],
      [127, 0],
      [128, mark[0]],
      [129, 0],
    ] as const) {
      await layer!.unpack(unit, into);
      expect(into[0], `chunk ${unit}`).toBe(want);
    }
    expect(await verify(image, 2)).toEqual([]);
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
});

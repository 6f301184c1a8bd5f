import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { pattern } from '../../../test/kit/disks.ts';
import type { ByteSource } from '../../base/contracts.ts';
import { openFile } from '../../base/io.ts';
import { native } from '../../base/native.ts';
import { ZEROS } from '../../base/zeros.ts';
import { MAX_IO, REPLY_HEADER } from './protocol.ts';
import { Slot } from './slot.ts';
import { LEAST_SPLICED, ReplyPipe } from './splice.ts';

const cannot = native() === null ? 'koffi is not installed' : '';
const titled = (title: string): string => title + (cannot && ` (skipped: ${cannot})`);
const SIZE = 3 * 2 ** 20;

/** An image, and a file in the place of the device, which takes answers one after the other. */
async function setUp() {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-splice-'));
  const [image, device] = [path.join(folder, 'image'), path.join(folder, 'device')];
  const content = Buffer.alloc(SIZE);
  pattern(content, 0, 7);
  fs.writeFileSync(image, content);
  const source = await openFile(image, 'read');
  const fd = fs.openSync(device, 'w');
  const pipe = ReplyPipe.open(fd)!;
  onTestFinished(async () => {
    pipe.close();
    fs.closeSync(fd);
    await source[Symbol.asyncDispose]();
    fs.rmSync(folder, { recursive: true });
  });
  const slot = new Slot();
  const unique = [0x1234, 0x8765_4321];
  slot.words.set(unique, 2);
  const answer = (at: number, length: number): Buffer => {
    const head = Buffer.alloc(REPLY_HEADER);
    [REPLY_HEADER + length, 0, ...unique].forEach((word, i) => void head.writeUInt32LE(word, 4 * i));
    return Buffer.concat([head, content.subarray(at, at + length)]);
  };
  return { image, source, pipe, slot, answer, sent: () => fs.readFileSync(device) };
}

const same = (is: Buffer, should: Buffer): void => expect(Buffer.compare(is, should)).toBe(0);

test.skipIf(cannot !== '')(titled('an answer goes out whole, wherever in a page it begins'), async () => {
  const { source, pipe, slot, answer, sent } = await setUp();
  const places = [
    [0, LEAST_SPLICED],
    [4096, MAX_IO],
    [513, MAX_IO],
    [SIZE - MAX_IO, MAX_IO],
    [SIZE - LEAST_SPLICED - 1, LEAST_SPLICED + 1],
  ] as const;
  for (const [at, length] of places) expect(pipe.send(slot, { source, at }, length)).toBe(true);
  same(sent(), Buffer.concat(places.map(([at, length]) => answer(at, length))));
});

test.skipIf(cannot !== '')(titled('zeros go out as everything else does'), async () => {
  const { source, pipe, slot, answer, sent } = await setUp();
  expect(pipe.send(slot, { source, at: 4096 }, MAX_IO)).toBe(true);
  for (const length of [MAX_IO, LEAST_SPLICED + 512]) expect(pipe.send(slot, ZEROS, length)).toBe(true);
  const zeros = (length: number): Buffer => answer(0, length).fill(0, REPLY_HEADER);
  same(sent(), Buffer.concat([answer(4096, MAX_IO), zeros(MAX_IO), zeros(LEAST_SPLICED + 512)]));
});

test.skipIf(cannot !== '')(titled('what was not sent leaves nothing before the next answer'), async () => {
  const { source, pipe, slot, answer, sent } = await setUp();
  const other: ByteSource = { name: 'other', size: SIZE, read() {}, async [Symbol.asyncDispose]() {} };
  const halves: ByteSource = { ...other, splice: (into, at, length) => source.splice(into, at, length / 2) };
  const none: ByteSource = { ...other, splice: () => 0 };
  for (const bad of [halves, none, other]) {
    expect(pipe.send(slot, { source: bad, at: 4096 }, MAX_IO)).toBe(false);
    expect(sent().length).toBe(0);
  }
  expect(pipe.send(slot, { source, at: 0 }, MAX_IO + 1)).toBe(false);
  expect(pipe.send(slot, { source, at: 8192 }, MAX_IO)).toBe(true);
  same(sent(), answer(8192, MAX_IO));
});

test.skipIf(cannot !== '')(titled('a file that has become shorter is not passed on'), async () => {
  const { image, source, pipe, slot, sent } = await setUp();
  fs.truncateSync(image, 2 ** 20 + 100);
  expect(pipe.send(slot, { source, at: 2 ** 20 - 4096 }, LEAST_SPLICED)).toBe(false);
  expect(pipe.send(slot, { source, at: 2 ** 20 + 4096 }, LEAST_SPLICED)).toBe(false);
  expect(sent().length).toBe(0);
  expect(() => source.read(new Uint8Array(LEAST_SPLICED), 2 ** 20 - 4096)).toThrow(/ends early/);
});

test.skipIf(cannot !== '')(titled('a device that refuses an answer gets none, and the next one is whole'), async () => {
  const { image, source, slot, answer } = await setUp();
  const fd = fs.openSync(image, 'r');
  const refused = ReplyPipe.open(fd)!;
  expect(refused.send(slot, { source, at: 0 }, MAX_IO)).toBe(false);
  fs.closeSync(fd);
  const device = `${image}.device`;
  expect(fs.openSync(device, 'w+')).toBe(fd);
  expect(refused.send(slot, { source, at: 4096 }, MAX_IO)).toBe(true);
  same(fs.readFileSync(device), answer(4096, MAX_IO));
  refused.close();
  fs.closeSync(fd);
});

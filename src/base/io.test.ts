import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { random } from '../../test/kit/random.ts';
import { replaceFile } from './files.ts';
import { readFullNow, writeFullNow } from './full-io.ts';
import { openFile } from './io.ts';
import { native } from './native.ts';

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-io-'));
const place = (name: string): string => path.join(folder, name);
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

describe('positions', () => {
  // Each of these would be written at the file's cursor by Node itself, without an error.
  const bad = [Number.NaN, -1, 0.5, 2 ** 53, Infinity, undefined, null, '8', 8n] as unknown[] as number[];

  test.each(bad.map(at => [String(at), at] as const))('%s is refused for reading and writing', (_, at) => {
    const file = place('positions');
    fs.writeFileSync(file, 'untouched');
    const fd = fs.openSync(file, 'r+');
    expect(() => writeFullNow(fd, new Uint8Array(4), at, file)).toThrow(/not a safe position/);
    expect(() => readFullNow(fd, new Uint8Array(4), at, file)).toThrow(/not a safe position/);
    fs.closeSync(fd);
    expect(fs.readFileSync(file, 'utf8')).toBe('untouched');
  });

  test.each([2 ** 31 - 1, 2 ** 31, 2 ** 32 + 512, 2 ** 40 + 1, 2 ** 43])('%d is where it says', async at => {
    await using file = await openFile(place(`far-${at}`), 'create');
    file.write(new TextEncoder().encode('here'), at);
    expect(file.size).toBe(at + 4);
    const got = new Uint8Array(6);
    await file.read(got.subarray(0, 4), at);
    expect(new TextDecoder().decode(got.subarray(0, 4))).toBe('here');
    await file.read(got, at - 2);
    expect([...got.subarray(0, 2)]).toEqual([0, 0]);
    fs.rmSync(place(`far-${at}`));
  });
});

describe('local files', () => {
  test('the end of a file in the middle of a read is an error that says where', async () => {
    fs.writeFileSync(place('short'), 'four');
    await using file = await openFile(place('short'), 'read');
    expect(() => file.read(new Uint8Array(5), 0)).toThrow(/ends early: 4 of 5 bytes/);
  });

  test('a folder, a device that is no disk and a missing file are refused', async () => {
    await expect(openFile(folder, 'read')).rejects.toMatchObject({ fault: 'unsupported' });
    await expect(openFile('/dev/null', 'read')).rejects.toMatchObject({ fault: 'unsupported' });
    await expect(openFile(place('nowhere'), 'read')).rejects.toMatchObject({ fault: 'not-found' });
    await expect(openFile(place('short'), 'create')).rejects.toMatchObject({ fault: 'exists' });
  });

  test('a full disk is no-space, never a short write in silence', () => {
    const fd = fs.openSync('/dev/full', 'r+');
    expect(() => writeFullNow(fd, new Uint8Array(100), 0, '/dev/full')).toThrow(/no space left/);
    fs.closeSync(fd);
  });

  test('replacing a file leaves the new content and no temporary one', async () => {
    await replaceFile(place('record'), 'old');
    await replaceFile(place('record'), 'new');
    expect(fs.readFileSync(place('record'), 'utf8')).toBe('new');
    expect(fs.readdirSync(folder).filter(name => name.includes('.new-'))).toEqual([]);
  });

  test.skipIf(!fs.existsSync('/dev/shm'))(
    'one slow read sends the next ones to the pool, and not all that follow',
    async () => {
      // tmpfs does not say what is in memory.
      const folder = fs.mkdtempSync('/dev/shm/bootmount-io-');
      onTestFinished(() => fs.rmSync(folder, { recursive: true }));
      fs.writeFileSync(path.join(folder, 'file'), Buffer.alloc(8192, 'in memory '));
      await using file = await openFile(path.join(folder, 'file'), 'read');
      const into = new Uint8Array(4096);
      const clock = vi.spyOn(performance, 'now').mockReturnValueOnce(0).mockReturnValueOnce(1000);
      expect(file.read(into, 0)).toBeUndefined();
      clock.mockReturnValue(1000);
      onTestFinished(() => clock.mockRestore());
      let aside = 0;
      for (let reading = file.read(into, 10); reading !== undefined && aside < 1000; reading = file.read(into, 10)) {
        await reading;
        aside++;
      }
      expect(aside).toBe(64);
      expect(Buffer.from(into.subarray(0, 9)).toString()).toBe('in memory');
    },
  );

  test.skipIf(native() === null)('holes are the same whatever was asked before, also after a write', async () => {
    const unit = 65536;
    await using file = await openFile(place('runs'), 'create');
    await file.truncate(64 * unit);
    const data = new Set<number>();
    const put = (unitAt: number): void => {
      file.write(new Uint8Array(unit).fill(1), unitAt * unit);
      data.add(unitAt);
    };
    for (const at of [1, 4, 5, 9, 30]) put(at);
    let asked = 0;
    const { below } = random(3);
    for (let n = 0; n < 400; n++) {
      // Into a hole that is known, or just behind it.
      if (n % 10 === 9) put(Math.min(63, Math.floor(asked / unit) + below(2)));
      const at = n % 3 === 0 ? asked : below(64 * unit);
      asked = at;
      const isData = (where: number): boolean => data.has(Math.floor(where / unit));
      let end = at;
      while (end < 64 * unit && isData(end) === isData(at)) end = (Math.floor(end / unit) + 1) * unit;
      const found = file.extent(at, 64 * unit - at);
      expect([n, at, found]).toEqual([n, at, { kind: isData(at) ? 'data' : 'zero', length: end - at }]);
    }
  });

  test.skipIf(native() === null)('holes are found and made', async () => {
    await using file = await openFile(place('sparse'), 'create');
    await file.truncate(4 * 2 ** 20);
    file.write(new Uint8Array(65536).fill(1), 2 ** 20);
    expect(file.extent(0, 4 * 2 ** 20)).toEqual({ kind: 'zero', length: 2 ** 20 });
    expect(file.extent(2 ** 20 + 5, 4 * 2 ** 20)).toEqual({ kind: 'data', length: 65531 });
    expect(file.extent(2 ** 20 + 65536, 2 ** 20)).toEqual({ kind: 'zero', length: 2 ** 20 });
    expect(native()!.punch(file.fd, 2 ** 20, 65536)).toBe(true);
    const got = new Uint8Array(65536).fill(7);
    await file.read(got, 2 ** 20);
    expect(got.every(byte => byte === 0)).toBe(true);
  });
});

test('a file that was closed is not read: its number may be another one’s', async () => {
  fs.writeFileSync(place('closed'), Buffer.alloc(8192, 1));
  fs.writeFileSync(place('next'), Buffer.alloc(8192, 2));
  const closed = await openFile(place('closed'), 'read');
  await closed[Symbol.asyncDispose]();
  await using next = await openFile(place('next'), 'read');
  expect(next.fd).toBe(closed.fd);
  expect(() => closed.read(new Uint8Array(512), 0)).toThrow('the file is closed');
  expect(closed.splice(-1, 0, 512)).toBe(0);
});

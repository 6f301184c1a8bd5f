import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { openFile } from './io.ts';
import { native } from './native.ts';

const cannot = native() === null ? 'koffi is not installed' : '';
const SIZE = 2 ** 20;

function made(): string {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-native-'));
  onTestFinished(() => fs.rmSync(folder, { recursive: true }));
  const file = path.join(folder, 'file');
  fs.writeFileSync(file, Buffer.alloc(SIZE, 'what lies here '));
  return file;
}

test.skipIf(cannot !== '')(`a read now is whole, or says what is missing${cannot && ` (skipped: ${cannot})`}`, () => {
  const file = made();
  const fd = fs.openSync(file, 'r');
  onTestFinished(() => fs.closeSync(fd));
  const { readNow } = native()!;
  const into = new Uint8Array(8192);
  const part = into.subarray(100, 100 + 4096);
  expect(readNow(fd, part, 12_345)).toBe(4096);
  expect(Buffer.compare(part, fs.readFileSync(file).subarray(12_345, 12_345 + 4096))).toBe(0);
  // Nothing before and behind the part is touched.
  expect(into.subarray(0, 100).every(byte => byte === 0)).toBe(true);
  expect(into.subarray(100 + 4096).every(byte => byte === 0)).toBe(true);
  expect(readNow(fd, part, SIZE - 96)).toBe(96);
  expect(readNow(fd, part, SIZE)).toBe(0);
});

test.skipIf(cannot !== '')(
  `a read now leaves out what only the device has${cannot && ` (skipped: ${cannot})`}`,
  async () => {
    const file = made();
    const fd = fs.openSync(file, 'r');
    onTestFinished(() => fs.closeSync(fd));
    execFileSync('dd', [`of=${file}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0'], { stdio: 'ignore' });
    const into = new Uint8Array(4096);
    // A file system in memory has no device.
    const cold = native()!.readNow(fd, into, 512 * 1024) === -1;
    await using opened = await openFile(file, 'read');
    for (let at = 0; at < SIZE; at += into.length) {
      await opened.read(into, at);
      expect(Buffer.compare(into, Buffer.alloc(SIZE, 'what lies here ').subarray(at, at + into.length))).toBe(0);
    }
    expect(native()!.readNow(fd, into, 512 * 1024)).toBe(4096);
    expect(cold || fs.statfsSync(file).type === 0x0102_1994).toBe(true);
  },
);

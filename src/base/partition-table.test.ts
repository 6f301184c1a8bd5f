import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { backupGpt, guidBytes, makeGpt, makeMbr, readGpt } from './partition-table.ts';

const MIB = 1_048_576;
const BASIC_DATA = 'EBD0A0A2-B9E5-4433-87C0-68B6B72699C7';
const id = (n: number): Uint8Array => new Uint8Array(16).fill(n);
const partitions = [
  { at: MIB, length: 2 * MIB, type: BASIC_DATA, id: id(1) },
  { at: 3 * MIB, length: 4 * MIB, type: BASIC_DATA, id: id(2) },
];

/** What `sfdisk` says about a disk that holds the given parts; it warns on its error output. */
function judged(size: number, parts: readonly { at: number; bytes: Uint8Array }[]): string | null {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-table-'));
  try {
    const file = path.join(folder, 'disk');
    const fd = fs.openSync(file, 'w');
    for (const { at, bytes } of parts) fs.writeSync(fd, bytes, 0, bytes.length, at);
    fs.ftruncateSync(fd, size);
    fs.closeSync(fd);
    return execFileSync('sh', ['-c', 'sfdisk --verify "$0" 2>&1; sfdisk --dump "$0" 2>&1', file], { encoding: 'utf8' });
  } catch (error) {
    if ((error as { status?: number }).status === 127) return null;
    throw error;
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}

/** Without it the tests that ask it are skipped. */
const hasSfdisk = ['/sbin/sfdisk', '/usr/sbin/sfdisk', '/usr/bin/sfdisk'].some(file => fs.existsSync(file));

describe('GPT', () => {
  const made = makeGpt(8 * MIB, 512, id(9), partitions);

  test('reads what it makes, with either sector size', () => {
    for (const sectorSize of [512, 4096]) {
      const { head, tail } = makeGpt(8 * MIB, sectorSize, id(9), partitions);
      const read = readGpt(head.bytes, sectorSize)!;
      expect(read.header.alternateLba).toBe((8 * MIB) / sectorSize - 1);
      expect([...read.header.diskGuid]).toEqual([...id(9)]);
      expect(backupGpt(read, read.header.alternateLba, sectorSize)).toEqual(tail);
      expect(tail.at + tail.bytes.length).toBe(8 * MIB);
    }
  });

  test('what is read stays as it was, a Buffer too', () => {
    const bytes = Buffer.from(made.head.bytes);
    expect(readGpt(bytes, 512)).not.toBeNull();
    expect(bytes.equals(made.head.bytes)).toBe(true);
  });

  test('a table with a wrong byte, too little of one, or none is not taken', () => {
    for (const at of [512 + 8, 512 + 56, 1024, 1024 + 40, 1024 + 16_383]) {
      const bytes = made.head.bytes.slice();
      bytes[at]! ^= 1;
      expect(readGpt(bytes, 512)).toBeNull();
    }
    for (const length of [0, 512, 600, 1024, 17_407])
      expect(readGpt(made.head.bytes.subarray(0, length), 512)).toBeNull();
    expect(readGpt(new Uint8Array(32_256), 512)).toBeNull();
  });

  test.skipIf(!hasSfdisk)('sfdisk finds both copies sound', () => {
    const text = judged(8 * MIB, [made.head, made.tail])!;
    expect(text).toContain('No errors detected');
    expect(text).toContain('start=        2048, size=        4096');
    expect(text).not.toMatch(/corrupt|mismatch/i);
    // Without the backup it complains: the test above can fail.
    expect(judged(8 * MIB, [made.head])).toMatch(/backup GPT table is corrupt/i);
  });

  test('GUIDs are mixed-endian', () => {
    expect(Buffer.from(guidBytes(BASIC_DATA)).toString('hex')).toBe('a2a0d0ebe5b9334487c068b6b72699c7');
    expect(() => guidBytes('EBD0')).toThrow(TypeError);
  });
});

describe('MBR', () => {
  test.skipIf(!hasSfdisk)('sfdisk reads it as made', () => {
    const bytes = makeMbr(512, 0x1234abcd, [
      { at: MIB, length: 2 * MIB, type: 0x07, active: true },
      { at: 3 * MIB, length: 5 * MIB, type: 0x83, active: false },
    ]);
    const text = judged(8 * MIB, [{ at: 0, bytes }])!;
    expect(text).toContain('label-id: 0x1234abcd');
    expect(text).toMatch(/start= +2048, size= +4096, type=7, bootable/);
    expect(text).toMatch(/start= +6144, size= +10240, type=83/);
  });

  test('what it cannot hold is refused', () => {
    const one = { at: 2 ** 41 + 512, length: MIB, type: 7, active: false };
    expect(() => makeMbr(512, 0, [one])).toThrow(RangeError);
    expect(() =>
      makeMbr(
        512,
        0,
        Array.from({ length: 5 }, () => ({ ...one, at: MIB })),
      ),
    ).toThrow(RangeError);
  });
});

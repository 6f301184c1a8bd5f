import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Image } from '../../src/base/contracts.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { runCli } from '../../test/e2e/run-cli.ts';
import { missing } from '../../test/kit/oracles.ts';
import { scratch } from '../../test/kit/samples.ts';
import { EXTENSION } from './header.ts';
import { qcow2 } from './index.ts';

const keys = { secrets: async () => [] };
const LINES = ['bitmap "monday", a bit for 65536 bytes', 'bitmap "every 4 KiB", a bit for 4096 bytes'];

describe.skipIf(missing(['qemu-img']) !== null)('bitmaps', () => {
  let folder = '';
  let file: Buffer;
  beforeAll(() => {
    folder = scratch();
    const qemuImg = (...args: string[]): void => void execFileSync('qemu-img', args, { cwd: folder });
    qemuImg('create', '-q', '-f', 'qcow2', 'a.qcow2', '1M');
    qemuImg('snapshot', '-c', 'first', 'a.qcow2');
    qemuImg('bitmap', '--add', 'a.qcow2', 'monday');
    qemuImg('bitmap', '--add', '-g', '4k', 'a.qcow2', 'every 4 KiB');
    file = fs.readFileSync(path.join(folder, 'a.qcow2'));
  });
  afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

  const open = (bytes: Uint8Array): Promise<Image> => qcow2.open('a.qcow2', memoryStore({ 'a.qcow2': bytes }), keys);
  /** Offset of the extension's data. */
  const extension = (): number => {
    for (let at = file.readUInt32BE(100); ; at += 8 + Math.ceil(file.readUInt32BE(at + 4) / 8) * 8)
      if (file.readUInt32BE(at) === EXTENSION.bitmaps) return at + 8;
  };

  test('are listed, by `info` too', async () => {
    await using image = await open(file);
    expect(image.notes).toEqual(LINES);
    const { stdout } = await runCli(['info', path.join(folder, 'a.qcow2')]);
    expect(stdout).toMatch(/^FILE +FORMAT +SET +TIME +ROLE +DISKS +STORED +PARENT +NOTES\n/);
    expect(stdout).toContain(`1 snapshot inside; ${LINES.join('; ')}`);
  });

  test('that a program did not keep up are none', async () => {
    const old = Buffer.from(file);
    old.writeBigUInt64BE(0n, 88);
    await using image = await open(old);
    expect(image.notes).toEqual([]);
  });

  test.each<[string, (bytes: Buffer, at: number) => void, RegExp]>([
    ['lie outside the file', (b, at) => b.writeBigUInt64BE(2n ** 40n, at + 16), /leaves the file/],
    ['lie beyond 2^53', (b, at) => b.writeBigUInt64BE(2n ** 60n, at + 16), /2\^53/],
    ['are cut', (b, at) => b.writeBigUInt64BE(26n, at + 8), /leaves the directory/],
  ])('that %s are a warning, and the disk is read', async (_, change, message) => {
    const bytes = Buffer.from(file);
    change(bytes, extension());
    await using image = await open(bytes);
    expect(image.warnings.join('\n')).toMatch(message);
    expect(image.points.at(-1)!.problem).toBeNull();
  });
});

/** Conversions as a user runs them, compared by QEMU and byte by byte. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { runCli } from '../../test/e2e/run-cli.ts';
import { pattern } from '../../test/kit/disks.ts';
import { missing, qemuImg, qemuIo } from '../../test/kit/oracles.ts';
import { SAMPLES, sampleMissing, unpackSample } from '../../test/kit/samples.ts';

const MIB = 2 ** 20;
const SIZE = 24 * MIB + 512;
let folder: string;
let source: string;
let digest: string;

const at = (name: string): string => path.join(folder, name);
const sha = (file: string): string => createHash('sha256').update(fs.readFileSync(file)).digest('hex');
const noPartials = (): void => expect(fs.readdirSync(folder).filter(name => name.includes('partial'))).toEqual([]);

function put(file: string, offset: number, length: number, seed: number): void {
  const bytes = new Uint8Array(length);
  pattern(bytes, offset, seed);
  const fd = fs.openSync(file, fs.existsSync(file) ? 'r+' : 'w');
  fs.writeSync(fd, bytes, 0, length, offset);
  fs.closeSync(fd);
}

async function converted(from: string, to: string, ...more: readonly string[]): Promise<string> {
  const ran = await runCli(['convert', from, to, ...more]);
  expect(ran).toMatchObject({ code: 0, stderr: '' });
  return to;
}

beforeAll(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-convert-'));
  source = at('disk.raw');
  put(source, 0, MIB, 1);
  put(source, 7 * MIB + 100, 3 * MIB, 2);
  put(source, SIZE - 600, 600, 3);
  digest = sha(source);
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

describe('convert', () => {
  test('through every format that is written and back: the same bytes, and holes stay holes', async () => {
    const names = ['a.qcow2', 'b.vhd', 'c.vdi', 'd.img'];
    let from = source;
    for (const name of names) from = await converted(from, at(name));
    expect(sha(from)).toBe(digest);
    for (const name of names) expect(fs.statSync(at(name)).blocks * 512, name).toBeLessThan(13 * MIB);
    if (missing(['qemu-img']) === null) {
      await qemuImg.compare(at('a.qcow2'), 'qcow2', source, 'raw');
      await qemuImg.compare(at('b.vhd'), 'vpc', source, 'raw');
      await qemuImg.compare(at('c.vdi'), 'vdi', source, 'raw');
      await qemuImg.check(at('c.vdi'), 'vdi');
    }
    noPartials();
  });

  test('--json, and a format that the name does not say', async () => {
    const out = at('named.disk');
    const { code, stdout } = await runCli(['convert', source, out, '--format', 'vdi', '--json']);
    expect(code).toBe(0);
    const want = { source, sourceFormat: 'raw', file: out, format: 'vdi', size: SIZE, resumedAt: 0 };
    expect(JSON.parse(stdout)).toEqual({ ...want, written: fs.statSync(out).size });
    expect((await runCli(['info', '--json', out])).stdout).toContain('"vdi"');
  });

  test('says whether it was read back', async () => {
    expect((await runCli(['convert', source, at('checked.vhd')])).stdout).toContain(', read back,');
    const { code, stdout } = await runCli(['convert', '--no-read-back', source, at('unchecked.vhd')]);
    expect([code, stdout]).toEqual([0, expect.stringContaining(', not read back,')]);
  });

  test.skipIf(missing(['qemu-img', 'qemu-io']) !== null)('with what lies below', async () => {
    const base = at('base.qcow');
    await qemuImg.convert(source, 'raw', base, 'qcow');
    const middle = at('middle.qed');
    await qemuImg.create(middle, 'qed', '30M', ['-b', 'base.qcow', '-F', 'qcow']);
    await qemuIo(middle, 'qed', ['write -P 7 20M 2M']);
    const top = at('top.qcow2');
    await qemuImg.create(top, 'qcow2', '30M', ['-b', 'middle.qed', '-F', 'qed']);
    await qemuIo(top, 'qcow2', ['write -P 8 8M 100k', 'write -z 0 64k']);
    await qemuImg.convert(top, 'qcow2', at('want.raw'), 'raw');
    await converted(top, at('flat.raw'));
    expect(sha(at('flat.raw'))).toBe(sha(at('want.raw')));
    fs.renameSync(base, at('elsewhere'));
    const broken = await runCli(['convert', top, at('broken.vdi')]);
    expect([broken.code, broken.stdout]).toEqual([5, '']);
    expect(broken.stderr).toMatch(/base\.qcow is missing/);
    expect(fs.existsSync(at('broken.vdi'))).toBe(false);
    noPartials();
  });

  test('a disk that was cut, from its first part', async () => {
    const content = fs.readFileSync(source);
    for (let i = 0; i * 5 * MIB < content.length; i++) {
      fs.writeFileSync(at(`cut.dd.00${i + 1}`), content.subarray(i * 5 * MIB, (i + 1) * 5 * MIB));
    }
    await converted(at('cut.dd.001'), at('joined.raw'));
    expect(sha(at('joined.raw'))).toBe(digest);
    fs.rmSync(at('cut.dd.003'));
    const gap = await runCli(['convert', at('cut.dd.001'), at('gap.raw')]);
    expect([gap.code, gap.stderr]).toEqual([5, expect.stringMatching(/cut\.dd\.003 is missing/)]);
    expect((await runCli(['convert', at('cut.dd.002'), at('gap.raw')])).code).toBe(3);
    expect(fs.existsSync(at('gap.raw'))).toBe(false);
  });

  const bundle = 'parallels/dissect/expanding.hdd';
  const image = 'expanding.hdd.0.{5fbaabe3-6958-40ff-92a7-860e329aab41}.hds';
  test.skipIf(sampleMissing(bundle) !== null)('a Parallels bundle, by its folder', async () => {
    const inside = at('expanding.hdd');
    fs.mkdirSync(inside);
    unpackSample(`${bundle}/${image}.gz`, inside);
    fs.copyFileSync(path.join(SAMPLES, bundle, 'DiskDescriptor.xml'), path.join(inside, 'DiskDescriptor.xml'));
    await converted(inside, at('bundle.raw'));
    expect(sha(at('bundle.raw'))).toBe('7906281f7a25f13df78c907d7bc4e9313d9a26fa86386c6e2a737a784fe80b8f');
  });

  test('a restore point, with the one that it builds on and its key', async () => {
    const key = at('key');
    fs.writeFileSync(key, 'correct horse\n', { mode: 0o600 });
    const disk = at('changing.raw');
    fs.copyFileSync(source, disk);
    const backup = async (time: string): Promise<void> => {
      const options = ['--set', 'web', '--time', time, '--encrypt', '--key-file', key];
      expect((await runCli(['backup', disk, at('repo'), ...options])).code).toBe(0);
    };
    await backup('2026-11-01T00:00:00Z');
    put(disk, 12 * MIB, 70_000, 9);
    await backup('2026-11-02T00:00:00Z');
    const point = path.join(at('repo'), 'web', '2026-11-02T00-00-00Z.bml');
    await converted(point, at('point.qcow2'), '--key-file', key);
    await converted(at('point.qcow2'), at('point.raw'));
    expect(sha(at('point.raw'))).toBe(sha(disk));
    expect((await runCli(['convert', point, at('locked.raw')])).code).toBe(5);
    expect(fs.existsSync(at('locked.raw'))).toBe(false);
  });

  test('a raw disk whose guest wrote the header of another format stays a raw disk', async () => {
    const disk = at('guest.raw');
    fs.copyFileSync(source, disk);
    const fd = fs.openSync(disk, 'r+');
    fs.writeSync(fd, Uint8Array.of(0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3), 0, 8, 0);
    fs.closeSync(fd);
    await converted(disk, at('guest.vdi'));
    await converted(at('guest.vdi'), at('guest.bin'));
    expect(sha(at('guest.bin'))).toBe(sha(disk));
    fs.renameSync(disk, at('guest'));
    await converted(at('guest'), at('declared.bin'), '--source-format', 'raw');
    expect(sha(at('declared.bin'))).toBe(sha(at('guest.bin')));
  });
});

describe('what a conversion refuses', () => {
  const refused = async (code: number, message: RegExp, ...args: readonly string[]): Promise<void> => {
    const ran = await runCli(['convert', ...args]);
    expect([ran.code, ran.stdout, ran.stderr]).toEqual([code, '', expect.stringMatching(message)]);
  };

  test('names, formats and files that it cannot take', async () => {
    await refused(2, /does not say which format.*\n {2}try: --format raw/, source, at('x.disk'));
    await refused(2, /format/, source, at('x.vdi'), '--format', 'zip');
    await refused(2, /no format/, source, at('x.vdi'), '--source-format', 'zip');
    await refused(3, /no such file/, at('nothing'), at('x.vdi'));
    await refused(3, /no such folder/, source, at('nowhere/x.vdi'));
    await refused(3, /should be vdi but is raw/, source, at('x.vdi'), '--source-format', 'vdi');
    fs.writeFileSync(at('there.vdi'), 'x');
    await refused(1, /exists already.*\n {2}try: --force/, source, at('there.vdi'));
    expect(fs.readFileSync(at('there.vdi'), 'utf8')).toBe('x');
    await converted(source, at('there.vdi'), '--force');
  });

  test('to write over what it reads: the source, what lies below it, a link to it, and an unfinished file', async () => {
    await refused(2, /read for the conversion itself/, source, source, '--force');
    fs.linkSync(source, at('link.vdi'));
    await refused(2, /read for the conversion itself/, source, at('link.vdi'), '--force');
    fs.symlinkSync('disk.raw', at('soft.vdi'));
    await refused(2, /read for the conversion itself/, source, at('soft.vdi'), '--force');
    fs.copyFileSync(source, at('x.raw.partial'));
    await refused(2, /read for the conversion itself/, at('x.raw.partial'), at('x.raw'));
    expect(sha(at('x.raw.partial'))).toBe(digest);
    fs.rmSync(at('x.raw.partial'));
    if (missing(['qemu-img']) !== null) return;
    fs.copyFileSync(source, at('below.raw'));
    await qemuImg.create(at('above.qcow2'), 'qcow2', SIZE, ['-b', 'below.raw', '-F', 'raw']);
    await refused(2, /read for the conversion itself/, at('above.qcow2'), at('below.raw'), '--force');
    expect(sha(at('below.raw'))).toBe(digest);
    fs.linkSync(at('below.raw'), at('other.raw.partial'));
    await refused(2, /read for the conversion itself/, at('above.qcow2'), at('other.raw'));
    expect(sha(at('below.raw'))).toBe(digest);
    fs.rmSync(at('other.raw.partial'));
  });

  test('several disks into one file', async () => {
    const clone = at('clone');
    fs.mkdirSync(clone);
    const disks = ['disk0', 'disk1'].map(name => ({ name, file: `${name}.raw`, format: 'raw' }));
    for (const { file } of disks) fs.copyFileSync(source, path.join(clone, file));
    fs.writeFileSync(path.join(clone, 'clone.json'), JSON.stringify({ disks }));
    await refused(2, /holds 2 disks/, clone, at('x.vdi'));
    expect((await runCli(['backup', clone, at('two'), '--set', 'two', '--time', '2026-11-01T00:00:00Z'])).code).toBe(0);
    const point = path.join(at('two'), 'two', '2026-11-01T00-00-00Z.bml');
    await refused(2, /holds 2 disks(.|\n)*restore/, point, at('x.vdi'));
    expect(fs.existsSync(at('x.vdi'))).toBe(false);
  });
});

describe('Ctrl-C', () => {
  const LONG = 192 * MIB;
  /** Stops the conversion once some of the file is written and the journal is there. */
  const stopped = (from: string, out: string): ReturnType<typeof runCli> =>
    runCli(['convert', from, out], {
      started(child) {
        const timer = setInterval(() => {
          const partial = fs.statSync(`${out}.partial`, { throwIfNoEntry: false });
          if (partial === undefined || partial.blocks < 32_000) return;
          clearInterval(timer);
          child.kill('SIGINT');
        }, 2);
        child.on('close', () => clearInterval(timer));
      },
    });

  test('a raw file is continued, unless the source changed; other formats leave nothing', async () => {
    const big = at('big.raw');
    for (let n = 0; n < LONG / MIB; n++) put(big, n * MIB, MIB, n);
    const out = at('continued.img');
    const first = await stopped(big, out);
    expect([first.code, first.stderr]).toEqual([130, expect.stringContaining('the same command continues it')]);
    expect(fs.existsSync(out)).toBe(false);
    const { done } = JSON.parse(fs.readFileSync(`${out}.partial.json`, 'utf8')) as { done: number };
    expect(done).toBeGreaterThan(0);
    const again = await runCli(['convert', big, out, '--json']);
    expect(JSON.parse(again.stdout)).toMatchObject({ resumedAt: done });
    expect(sha(out)).toBe(sha(big));

    const changed = at('changed.img');
    expect((await stopped(big, changed)).code).toBe(130);
    // Between the samples that a raw disk is known by.
    put(big, MIB + 5000, 100, 77);
    expect(JSON.parse((await runCli(['convert', big, changed, '--json'])).stdout)).toMatchObject({ resumedAt: 0 });
    expect(sha(changed)).toBe(sha(big));

    const vdi = at('stopped.vdi');
    expect((await stopped(big, vdi)).code).toBe(130);
    noPartials();
    expect(fs.existsSync(vdi)).toBe(false);
  });
});

/** Disks of every shape in every format, as they stand in a mount, judged by everybody who can read them. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openDiskFile } from '../../src/chain/file.ts';
import { firstDifference } from '../../src/jobs/sparse.ts';
import { adapters } from '../../src/registry.ts';
import { localFileStore } from '../../src/stores/local.ts';
import { pattern } from '../kit/disks.ts';
import { QEMU } from '../kit/guest-views.ts';
import { fileDigest, fuseMissing, missing, qemuImg, run, sevenZipDigest } from '../kit/oracles.ts';
import { scratch } from '../kit/samples.ts';
import { runCli } from './run-cli.ts';

const MIB = 2 ** 20;
const TIB = 2 ** 40;
const NEEDS = ['qemu-img', '7zz', 'vhdimount', 'vmdkmount', 'qcowmount'];
const reason = fuseMissing() ?? missing(NEEDS);

const put = (runs: readonly (readonly [at: number, length: number])[]) => runs;
const SHAPES = {
  empty: { size: 16 * MIB, runs: put([]) },
  tiny: { size: 512, runs: put([[0, 512]]) },
  odd: {
    size: 5 * MIB + 3 * 512,
    runs: put([
      [0, 70_000],
      [3 * MIB - 700, 2 * MIB],
    ]),
  },
  huge: {
    size: 2 * TIB,
    runs: put([
      [0, 4096],
      [TIB + 512, 3 * MIB],
      [2 * TIB - 4096, 4096],
    ]),
  },
  fragmented: {
    size: 24 * MIB,
    runs: Array.from({ length: 700 }, (_, i) => [512 + i * 33_280, 512 * (1 + ((i * 7) % 40))] as const),
  },
};
type Shape = keyof typeof SHAPES;
type Format = keyof typeof QEMU;
const FORMATS = Object.keys(QEMU) as Format[];
/** A view that leaves places empty counts them as allocated in VDI, which the check calls an error; VHD has no check. */
const CHECKED: readonly Format[] = ['qcow2', 'vhdx', 'vmdk'];

let folder = '';
const mounts = ['one', 'two'];
const view = (mount: string, shape: Shape, format: Format): string =>
  path.join(folder, mount, 'backups', shape, 'latest', `disk0.${format}`);
const twin = (shape: Shape): string => path.join(folder, 'repo', `${shape}.raw`);

beforeAll(async () => {
  if (reason !== null) return;
  folder = fs.realpathSync(scratch());
  fs.mkdirSync(path.join(folder, 'repo'));
  for (const [shape, { size, runs }] of Object.entries(SHAPES)) {
    const fd = fs.openSync(twin(shape as Shape), 'w');
    for (const [at, length] of runs) {
      const data = new Uint8Array(length);
      pattern(data, at, 3);
      fs.writeSync(fd, data, 0, length, at);
    }
    fs.ftruncateSync(fd, size);
    fs.closeSync(fd);
  }
  for (const mount of mounts) {
    fs.mkdirSync(path.join(folder, mount));
    const args = [
      'mount',
      path.join(folder, 'repo'),
      path.join(folder, mount),
      '--state',
      path.join(folder, `state-${mount}`),
    ];
    expect(await runCli(args)).toMatchObject({ code: 0 });
  }
});
afterAll(async () => {
  for (const mount of mounts) if (folder !== '') await runCli(['umount', path.join(folder, mount), '--release']);
  if (folder !== '') fs.rmSync(folder, { recursive: true, force: true });
});

/** The disk as one of the tools shows it that mount an image as a single file. */
async function mountedDigest(program: string, file: string, shown: string): Promise<string> {
  const at = fs.mkdtempSync(path.join(folder, 'peer-'));
  expect(await run(program, [file, at])).toMatchObject({ code: 0 });
  try {
    return await fileDigest(path.join(at, shown));
  } finally {
    await run('umount', [at]);
  }
}

/** QEMU reports no holes of a VHDX and would read all of it: it reads where there is data. */
async function sameAtRuns(file: string, qemu: string, shape: Shape): Promise<void> {
  const part = path.join(folder, 'part');
  for (const [at, length] of SHAPES[shape].runs) {
    const [skip, count] = [`skip=${Math.floor(at / 512)}`, `count=${length / 512}`];
    const both = [
      [qemu, file],
      ['raw', twin(shape)],
    ] as const;
    const digests = await Promise.all(
      both.map(async ([format, source], i) => {
        const args = ['dd', '-f', format, '-O', 'raw', 'bs=512', skip, count, `if=${source}`, `of=${part}${i}`];
        expect(await run('qemu-img', args)).toMatchObject({ code: 0 });
        return fileDigest(`${part}${i}`);
      }),
    );
    expect(digests[0]).toBe(digests[1]);
  }
}

/** Who else reads the format; 7-Zip wants whole pages of VHDX, and libvhdi takes any. */
function others(format: Format, file: string, size: number): readonly Promise<string>[] {
  switch (format) {
    case 'raw':
      return [fileDigest(file)];
    case 'vhd':
      return [sevenZipDigest(file, 'vhd'), mountedDigest('vhdimount', file, 'vhdi1')];
    case 'vhdx':
      return [...(size % 4096 === 0 ? [sevenZipDigest(file, 'vhdx')] : []), mountedDigest('vhdimount', file, 'vhdi1')];
    case 'qcow2':
      return [sevenZipDigest(file, 'qcow'), mountedDigest('qcowmount', file, 'qcow1')];
    case 'vmdk':
      return [sevenZipDigest(file, 'vmdk'), mountedDigest('vmdkmount', file, 'vmdk1')];
    case 'vdi':
      return [sevenZipDigest(file, 'vdi')];
  }
}

/** Of the first and last bytes, where a file is too long to be read whole. */
function ends(file: string): string {
  const hash = createHash('sha256').update(`${fs.statSync(file).size}`);
  const fd = fs.openSync(file, 'r');
  const part = Buffer.alloc(MIB);
  for (const at of [0, MIB, 3 * MIB, Math.max(0, fs.statSync(file).size - MIB)])
    hash.update(part.subarray(0, fs.readSync(fd, part, 0, MIB, at)));
  fs.closeSync(fd);
  return hash.digest('hex');
}

for (const shape of Object.keys(SHAPES) as Shape[]) {
  const { size } = SHAPES[shape];
  describe.skipIf(reason !== null)(`${shape}, ${size} bytes`, () => {
    for (const format of FORMATS) {
      if (format === 'vhd' && shape === 'huge') {
        test('vhd is not shown: it ends at 2,040 GiB', async () => {
          expect(fs.existsSync(view('one', shape, 'vhd'))).toBe(false);
          const refused = await runCli(['convert', twin(shape), path.join(folder, 'x.vhd')]);
          expect(refused).toMatchObject({ code: 1, stderr: expect.stringMatching(/vhdx/i) });
        });
        continue;
      }
      test(format, async () => {
        const file = view('one', shape, format);
        const qemu = QEMU[format];
        expect(await qemuImg.size(file, qemu)).toBe(size);
        if (format === 'vhdx' && shape === 'huge') await sameAtRuns(file, qemu, shape);
        else await qemuImg.compare(file, qemu, twin(shape), 'raw');
        if (CHECKED.includes(format)) await qemuImg.check(file, qemu);
        await using own = await openDiskFile(path.basename(file), localFileStore(file), adapters, {
          secrets: async () => [],
        });
        await using raw = await openDiskFile(path.basename(twin(shape)), localFileStore(twin(shape)), adapters, {
          secrets: async () => [],
        });
        const watch = { signal: new AbortController().signal, progress() {} };
        expect(own.disk.size).toBe(size);
        expect(await firstDifference(own.disk, raw.disk, watch)).toBeNull();
        const digest = shape === 'huge' ? async (name: string) => ends(name) : fileDigest;
        expect(await digest(view('two', shape, format))).toBe(await digest(file));
        if (shape === 'huge') return;
        const want = await fileDigest(twin(shape));
        for (const got of await Promise.all(others(format, file, size))) expect(got).toBe(want);
      });
    }
  });
}

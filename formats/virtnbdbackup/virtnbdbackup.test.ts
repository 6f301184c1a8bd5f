import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { openRepository } from '../../src/chain/repository.ts';
import { localStore } from '../../src/stores/local.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { adapterKit, type MadeImage, type Skip } from '../../test/kit/adapter-kit.ts';
import { missing, qemuImg } from '../../test/kit/oracles.ts';
import { expectationOf, SAMPLES, sampleMissing, scratch } from '../../test/kit/samples.ts';
import { content, domainXml, stream } from './fixtures.ts';
import { virtnbdbackup } from './index.ts';

const CHAIN = 'virtnbdbackup/generated/chain/fmtvm2.cpt';
const COPY = 'virtnbdbackup/generated/copy-lz4/sda.copy.data';
const NO_KEYS = { secrets: async () => [] };
const SHA = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex');
const sampleFolder = (file: string): string => path.join(SAMPLES, path.dirname(file));

/** Lays one stream over a disk, by the plainest means. */
function layOver(disk: Buffer, file: Buffer): void {
  let packed: number[] = [];
  if (/"compressed": \d/.test(file.toString('latin1', 40, 400))) {
    const length = Number.parseInt(file.toString('latin1', file.length - 18, file.length - 2), 16);
    packed = JSON.parse(file.toString('latin1', file.length - 42 - length, file.length - 42)) as number[];
  }
  for (let at = 0, i = 0; ; ) {
    const [kind, start, length] = file.toString('latin1', at, at + 38).split(' ') as [string, string, string];
    at += 40;
    const [from, count] = [Number.parseInt(start, 16), Number.parseInt(length, 16)];
    if (kind === 'stop') return;
    if (kind === 'zero') disk.fill(0, from, from + count);
    if (kind === 'data' && packed.length === 0) file.copy(disk, from, at, at + count);
    const stored = kind === 'data' && packed.length > 0 ? packed[i++]! : count;
    if (kind === 'data' && packed.length > 0) {
      execFileSync('lz4', ['-d', '-c'], { input: file.subarray(at, at + stored), maxBuffer: 2 ** 28 }).copy(disk, from);
    }
    if (kind !== 'zero') at += stored + 2;
  }
}

function twin(folder: string, files: readonly string[], sha256: string | null): Buffer {
  const disk = Buffer.alloc(268_435_456);
  for (const file of files) layOver(disk, fs.readFileSync(path.join(folder, file)));
  if (sha256 !== null) expect(SHA(disk)).toBe(sha256);
  return disk;
}

const long = process.env.BOOTMOUNT_LONG === '1';
const tooLong: readonly Skip[] = long ? [] : [{ test: 'digest', reason: 'its twin was compared when it was made' }];

function sampleImage(
  sample: string,
  files: readonly string[],
  point: string | null,
  needs: readonly string[],
): MadeImage {
  return {
    title: `${path.basename(sampleFolder(sample))}/${files.at(-1)}`,
    needs,
    skip: point === null ? tooLong : [],
    async make(folder) {
      fs.cpSync(sampleFolder(sample), folder, { recursive: true });
      const { expect: known } = expectationOf(sample) as unknown as {
        expect: { sha256?: string; points?: Record<string, { sha256: string }> };
      };
      const sha256 = point === null ? null : (known.points?.[point]?.sha256 ?? known.sha256 ?? null);
      fs.writeFileSync(path.join(folder, 'twin'), twin(folder, files, sha256));
      return { file: files.at(-1)!, raw: 'twin' };
    },
  };
}

const [FULL, INC1, INC2, DIFF] = [
  'sda.full.data',
  'sda.inc.virtnbdbackup.1.data',
  'sda.inc.virtnbdbackup.2.data',
  'sda.diff.1795191567.data',
];

/** Packed in pieces, with zeros and gaps; an increment over it. */
const made: MadeImage = {
  title: 'packed in pieces, two layers',
  needs: ['lz4'],
  async make(folder) {
    const size = 400_384;
    const base = [
      { start: 0, data: content(150_016, 1) },
      { start: 150_016, data: 100_352 },
      { start: 250_368, data: content(size - 250_368, 2) },
    ];
    const over = [
      { start: 65_536 - 512, data: content(66_048, 3) },
      { start: 300_032, data: content(512, 4) },
    ];
    const full = stream({ size, checkpoint: 'c.0', ranges: base, piece: 40_960 });
    const inc = stream({ size, checkpoint: 'c.1', parent: 'c.0', ranges: over, piece: 40_960 });
    fs.writeFileSync(path.join(folder, FULL), full);
    fs.writeFileSync(path.join(folder, 'sda.inc.c.1.data'), inc);
    const disk = new Uint8Array(size);
    for (const { start, data } of [...base, ...over]) if (typeof data !== 'number') disk.set(data, start);
    fs.writeFileSync(path.join(folder, 'twin'), disk);
    return { file: 'sda.inc.c.1.data', raw: 'twin' };
  },
};

const samples =
  sampleMissing(CHAIN) === null
    ? [
        sampleImage(CHAIN, [FULL], 'virtnbdbackup.0', []),
        sampleImage(CHAIN, [FULL, INC1, INC2], 'virtnbdbackup.2', []),
        sampleImage(COPY, ['sda.copy.data'], 'content', ['lz4']),
        ...(long ? [sampleImage(CHAIN, [FULL, INC1], null, [])] : []),
      ]
    : [];
adapterKit(virtnbdbackup, { images: [made, ...samples] });

describe.skipIf(sampleMissing(CHAIN) !== null)('the sample chain', () => {
  test('every point, in order, with its time; the contents that are known', async () => {
    await using repository = await openRepository(localStore(sampleFolder(CHAIN)), [virtnbdbackup], NO_KEYS);
    expect(repository.sets.map(({ name }) => name)).toEqual(['fmtvm2']);
    const { points } = repository.sets[0]!;
    expect(points.map(({ name, type, file, parent }) => [name, type, file, parent])).toEqual([
      ['2026-11-20T16-19-20Z', 'full', FULL, null],
      ['2026-11-20T16-19-22Z', 'incremental', INC1, '2026-11-20T16-19-20Z'],
      ['2026-11-20T16-19-23Z', 'incremental', INC2, '2026-11-20T16-19-22Z'],
      ['2026-11-20T16-19-27Z', 'differential', DIFF, '2026-11-20T16-19-23Z'],
    ]);
    const known = Object.values(
      (expectationOf(CHAIN).expect as unknown as { points: Record<string, { sha256: string }> }).points,
    );
    const digests: string[] = [];
    for (const i of [0, 2, 3]) {
      await using disk = await points[i]!.openDisk(0);
      const hash = createHash('sha256');
      const part = new Uint8Array(2 ** 22);
      for (let at = 0; at < disk.size; at += part.length) {
        await disk.read(part, at);
        hash.update(part);
      }
      digests.push(hash.digest('hex'));
    }
    expect(digests).toEqual(known.map(({ sha256 }) => sha256));
  });

  const SOURCE = 'qcow2/generated/source-with-bitmaps.qcow2';
  test.skipIf(sampleMissing(SOURCE) !== null || missing(['qemu-img']) !== null)(
    'the last point is the disk as QEMU has it',
    async () => {
      const folder = scratch();
      try {
        await using repository = await openRepository(localStore(sampleFolder(CHAIN)), [virtnbdbackup], NO_KEYS);
        await using disk = await repository.sets[0]!.points[3]!.openDisk(0);
        const raw = path.join(folder, 'a.raw');
        const fd = fs.openSync(raw, 'wx');
        fs.ftruncateSync(fd, disk.size);
        for (let at = 0; at < disk.size; at += 2 ** 20) {
          const part = new Uint8Array(2 ** 20);
          await disk.read(part, at);
          if (part.some(byte => byte !== 0)) fs.writeSync(fd, part, 0, part.length, at);
        }
        fs.closeSync(fd);
        await qemuImg.compare(raw, 'raw', path.join(SAMPLES, SOURCE), 'qcow2');
      } finally {
        fs.rmSync(folder, { recursive: true });
      }
    },
  );
});

describe('points of several files', () => {
  const size = 65_536;
  const disk = (name: string, checkpoint: string, parent?: string) =>
    stream({
      size,
      disk: name,
      checkpoint,
      ...(parent === undefined ? {} : { parent }),
      ranges: parent === undefined ? [{ start: 0, data: size }] : [],
    });
  const open = (files: Record<string, Uint8Array>) => openRepository(memoryStore(files), [virtnbdbackup], NO_KEYS);

  test('the disks of one backup are one point, in the order of the configuration', async () => {
    await using repository = await open({
      'vm/vmconfig.virtnbdbackup.0.xml': domainXml('web', ['vda', 'sda', 'vdc']),
      'vm/vmconfig.virtnbdbackup.1.xml': domainXml('web', ['vda', 'sda', 'vdc']),
      'vm/sda.full.data': disk('sda', 'virtnbdbackup.0'),
      'vm/vda.full.data': disk('vda', 'virtnbdbackup.0'),
      'vm/vdc.copy.data': new Uint8Array(1024).fill(7),
      'vm/sda.inc.virtnbdbackup.1.data': disk('sda', 'virtnbdbackup.1', 'virtnbdbackup.0'),
      'vm/vda.inc.virtnbdbackup.1.data': disk('vda', 'virtnbdbackup.1', 'virtnbdbackup.0'),
      'vm/vda.inc.virtnbdbackup.2.data.partial': disk('vda', 'virtnbdbackup.2', 'virtnbdbackup.1'),
    });
    expect(
      repository.sets.map(({ name, points }) => [name, points.map(p => p.disks.map(d => [d.name, d.size]))]),
    ).toEqual([
      [
        'web',
        [
          [
            ['vda', size],
            ['sda', size],
            ['vdc', 1024],
          ],
          [
            ['vda', size],
            ['sda', size],
          ],
        ],
      ],
    ]);
    expect(repository.warnings).toEqual([expect.stringContaining('did not come to its end')]);
    await using raw = await repository.sets[0]!.points[0]!.openDisk(2);
    const part = new Uint8Array(1024);
    await raw.read(part, 0);
    expect(part.every(byte => byte === 7)).toBe(true);
  });

  test('a copy beside a full of the same checkpoint is another point', async () => {
    await using repository = await open({
      'vmconfig.virtnbdbackup.0.xml': domainXml('web', ['sda']),
      'vmconfig.virtnbdbackup.1.xml': domainXml('web', ['sda']),
      'vmconfig.copy.xml': domainXml('web', ['sda']),
      'sda.full.data': disk('sda', 'virtnbdbackup.0'),
      'sda.copy.data': disk('sda', 'virtnbdbackup.0'),
      'sda.inc.virtnbdbackup.1.data': disk('sda', 'virtnbdbackup.1', 'virtnbdbackup.0'),
    });
    const { points } = repository.sets[0]!;
    expect(points.map(p => [p.file, p.files[0]]).toSorted()).toEqual([
      ['sda.copy.data', 'sda.copy.data'],
      ['sda.full.data', 'sda.full.data'],
      ['sda.inc.virtnbdbackup.1.data', 'sda.full.data'],
    ]);
  });

  test('two folders with the same checkpoints do not mix; a missing link is a broken chain', async () => {
    await using repository = await open({
      'a/sda.full.data': disk('sda', 'virtnbdbackup.0'),
      'a/sda.inc.virtnbdbackup.2.data': disk('sda', 'virtnbdbackup.2', 'virtnbdbackup.1'),
      'b/sda.inc.virtnbdbackup.1.data': disk('sda', 'virtnbdbackup.1', 'virtnbdbackup.0'),
    });
    const states = repository.sets.flatMap(set => set.points).map(p => [p.file, p.problem?.fault ?? 'ok']);
    expect(Object.fromEntries(states)).toEqual({
      'a/sda.full.data': 'ok',
      'a/sda.inc.virtnbdbackup.2.data': 'broken-chain',
      'b/sda.inc.virtnbdbackup.1.data': 'broken-chain',
    });
  });

  test('the disk grew: what is new reads as zeros below', async () => {
    const data = content(512, 1);
    await using repository = await open({
      'sda.full.data': stream({ size, checkpoint: 'c.0', ranges: [{ start: 0, data: content(size, 5) }] }),
      'sda.inc.c.1.data': stream({
        size: 2 * size,
        checkpoint: 'c.1',
        parent: 'c.0',
        ranges: [{ start: size + 1024, data }],
      }),
    });
    await using grown = await repository.sets[0]!.points[1]!.openDisk(0);
    const got = new Uint8Array(2 * size);
    await grown.read(got, 0);
    const want = new Uint8Array(2 * size);
    want.set(content(size, 5));
    want.set(data, size + 1024);
    expect(Buffer.compare(got, want)).toBe(0);
  });
});

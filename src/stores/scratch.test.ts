import { spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Unpacking, UnpackingTold } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { pidNamespace, startOf } from '../base/files.ts';
import { type LocalScratch, localScratch, type ScratchSpec } from './scratch.ts';

let folder: string;
beforeEach(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-scratch-'));
});
afterEach(() => fs.rmSync(folder, { recursive: true, force: true }));

const MIB = 2 ** 20;
const make = (spec: Partial<ScratchSpec> = {}): LocalScratch =>
  localScratch({ folder: path.join(folder, 'unpacked'), most: null, keep: true, hint: 'say more', ...spec });
const names = (): readonly string[] => fs.readdirSync(path.join(folder, 'unpacked')).toSorted();

/** `parts` counts how often the content was asked for. */
function unpacking(version: string, content: Uint8Array, most: number | null = null): Unpacking & { runs: number } {
  const what = {
    runs: 0,
    name: 'a.vma.zst',
    version,
    packed: 1000,
    most,
    async *content({ reached }: UnpackingTold) {
      what.runs++;
      reached(500);
      for (let at = 0; at < content.length; at += MIB) yield content.subarray(at, at + MIB);
      reached(1000);
    },
  };
  return what;
}

async function bytesOf(scratch: LocalScratch, what: Unpacking): Promise<Buffer> {
  await using source = await scratch.unpacked(what);
  const all = Buffer.alloc(source.size);
  await source.read(all, 0);
  return all;
}

const DATA = Buffer.alloc(3 * MIB + 77, 0x5a);
DATA.fill(0, MIB, 2 * MIB);

test('unpacked once, for all who ask at once and later, with zeros as holes', async () => {
  const what = unpacking('v1', DATA);
  const first = make();
  const both = await Promise.all([bytesOf(first, what), bytesOf(first, what)]);
  expect(both.every(all => all.equals(DATA))).toBe(true);
  expect((await bytesOf(make(), what)).equals(DATA)).toBe(true);
  expect(what.runs).toBe(1);
  expect(names()).toEqual(['v1.unpacked']);
  expect(fs.statSync(path.join(folder, 'unpacked/v1.unpacked')).blocks * 512).toBeLessThan(2.5 * MIB);
});

test('without keep, what was made goes and what was there stays', async () => {
  await bytesOf(make(), unpacking('old', DATA));
  {
    await using passing = make({ keep: false });
    const [old, own] = [unpacking('old', DATA), unpacking('own', DATA)];
    await Promise.all([bytesOf(passing, old), bytesOf(passing, own)]);
    expect([old.runs, own.runs]).toEqual([0, 1]);
  }
  expect(names()).toEqual(['old.unpacked']);
});

test('more than the limit is refused, naming what it takes and what helps; nothing is left of it', async () => {
  const error = await bytesOf(make({ most: 100 * MIB }), unpacking('big', Buffer.alloc(200 * MIB, 1), 900 * MIB)).catch(
    (e: unknown) => e,
  );
  expect(error).toMatchObject({ fault: 'no-space', hint: 'say more', where: { file: 'a.vma.zst' } });
  expect((error as Error).message).toContain('takes up to 900 MiB, more than the limit of 100 MiB');
  expect(names()).toEqual([]);
});

test('a compressed file that is larger than the limit is not even begun', async () => {
  const what = { ...unpacking('big', DATA), packed: 200 * MIB };
  await expect(bytesOf(make({ most: 100 * MIB }), what)).rejects.toMatchObject({ fault: 'no-space' });
  expect(what.runs).toBe(0);
});

test('what was not used for longest makes room, and never what is in use', async () => {
  const scratch = make({ most: 69 * MIB });
  for (const [i, version] of ['a', 'b', 'c'].entries()) {
    await bytesOf(make(), unpacking(version, DATA));
    const time = new Date(1_700_000_000_000 + i * 1000);
    fs.utimesSync(path.join(folder, `unpacked/${version}.unpacked`), time, time);
  }
  await bytesOf(scratch, unpacking('a', DATA));
  await bytesOf(scratch, unpacking('d', Buffer.alloc(2 * MIB, 7)));
  expect(names()).toEqual(['a.unpacked', 'c.unpacked', 'd.unpacked']);
});

test('more than can be in the file is damage', async () => {
  await expect(bytesOf(make(), unpacking('v', DATA, 2 * MIB))).rejects.toMatchObject({ fault: 'corrupt' });
  expect(names()).toEqual([]);
});

test('what a program that was killed left goes; what one that runs is writing stays', async () => {
  const inside = path.join(folder, 'unpacked');
  fs.mkdirSync(inside);
  const namespace = pidNamespace().replaceAll(/\D/g, '');
  const left = `v-0.${namespace}-${process.pid}-1.part`;
  const running = `v-1.${namespace}-${process.ppid}-${startOf(process.ppid)}.part`;
  const elsewhere = `v-2.1-${process.pid}-1.part`;
  for (const name of [left, running, elsewhere]) fs.writeFileSync(path.join(inside, name), 'x');
  await bytesOf(make(), unpacking('v', DATA));
  expect(names()).toEqual([running, elsewhere, 'v.unpacked'].toSorted());
});

test('a run that fails is run again by the next who asks', async () => {
  const scratch = make();
  const broken: Unpacking = {
    ...unpacking('v', DATA),
    // biome-ignore lint/correctness/useYield: it fails before it has anything.
    async *content() {
      throw new Error('the disk is gone');
    },
  };
  await expect(bytesOf(scratch, broken)).rejects.toThrow('gone');
  expect((await bytesOf(scratch, unpacking('v', DATA))).equals(DATA)).toBe(true);
});

/** A file that unpacks to `DATA`, packed to one byte for each MiB; decoding can begin anew at every one of `restarts`. */
function stepwise(restarts: readonly number[], gate?: (mib: number) => Promise<void>): Unpacking & { from: number[] } {
  const what = {
    from: [] as number[],
    name: 'a.vma.lzo',
    version: 'w',
    packed: 4,
    most: 8 * MIB,
    async *content({ restart }: UnpackingTold, from: number) {
      what.from.push(from);
      for (let mib = from; mib < 4; mib++) {
        await gate?.(mib);
        if (restarts.includes(mib)) restart(mib);
        yield DATA.subarray(mib * MIB, (mib + 1) * MIB);
      }
    },
  };
  return what;
}

/** As a program that was killed leaves it: so much is certain, and of the rest anything can be there. */
function leave(version: string, plain: number, restart: number): string {
  const inside = path.join(folder, 'unpacked');
  fs.mkdirSync(inside, { recursive: true });
  const owner = `${pidNamespace().replaceAll(/\D/g, '')}-${process.pid}-1`;
  const name = `${version}-0123abcd.${owner}.${plain}-${restart}-${restart * MIB}.part`;
  fs.writeFileSync(path.join(inside, name), Buffer.concat([DATA.subarray(0, plain), Buffer.alloc(MIB, 0xee)]));
  return name;
}

test('what a program that was killed had unpacked is gone on with, where the compression allows it', async () => {
  for (const [plain, restart] of [
    [2 * MIB + 100, 2],
    [2 * MIB + 100, 0],
    [MIB, 1],
  ] as const) {
    leave('w', plain, restart);
    const what = stepwise([0, 1, 2, 3]);
    expect((await bytesOf(make(), what)).equals(DATA)).toBe(true);
    expect(what.from).toEqual([restart]);
    expect(names()).toEqual(['w.unpacked']);
    fs.rmSync(path.join(folder, 'unpacked/w.unpacked'));
  }
});

test('of what was left the furthest is taken; what is of another file stays until the room is needed', async () => {
  leave('w', MIB, 1);
  fs.renameSync(
    path.join(folder, 'unpacked', names()[0]!),
    path.join(folder, 'unpacked', names()[0]!.replace('0123', 'ffff')),
  );
  leave('w', 3 * MIB, 3);
  const other = leave('x', MIB, 1);
  const what = stepwise([]);
  expect((await bytesOf(make(), what)).equals(DATA)).toBe(true);
  expect(what.from).toEqual([3]);
  expect(names()).toContain(other);
  await bytesOf(make({ most: 68 * MIB }), unpacking('v', Buffer.alloc(3 * MIB, 1)));
  expect(names()).not.toContain(other);
});

test('a run says in the name of its file how far it is certain, and where decoding can go on', async () => {
  const partial = (): string => names().find(name => name.endsWith('.part'))!;
  let last = '';
  const what: Unpacking = {
    ...unpacking('big', DATA),
    async *content({ restart }) {
      for (let mib = 0; mib < 70; mib++) {
        restart(mib);
        yield DATA.subarray(0, MIB);
      }
      for (let n = 0; !/\.67108864-/.test(last) && n < 1000; n++) {
        await new Promise(resolve => setTimeout(resolve, 5));
        last = partial();
      }
    },
  };
  await bytesOf(make(), what);
  expect(last).toMatch(/^big-[0-9a-f]{8}\.\d+-\d+-\d+\.67108864-63-66060288\.part$/);
});

test('a compressed file that cannot be read for a moment is gone on with', async () => {
  const scratch = make();
  let broken = true;
  const what = stepwise([0, 1, 2, 3], async mib => {
    if (mib === 2 && broken) throw new ImageError('io', 'the disk is gone');
  });
  await expect(bytesOf(scratch, what)).rejects.toMatchObject({ fault: 'io' });
  expect(names().filter(name => name.endsWith('.part'))).toHaveLength(1);
  broken = false;
  expect((await bytesOf(scratch, what)).equals(DATA)).toBe(true);
  expect(names()).toEqual(['w.unpacked']);
});

test('what is there is read while the rest is coming', async () => {
  const gates = Array.from({ length: 4 }, () => Promise.withResolvers<void>());
  const what = stepwise([], mib => gates[mib]!.promise);
  await using scratch = make();
  await using source = scratch.growing(what);
  expect(source.size).toBe(8 * MIB);
  const [first, second] = [Buffer.alloc(100), Buffer.alloc(200)];
  const reading = Promise.resolve(source.read(first, 500));
  let early = true;
  const later = Promise.resolve(source.read(second, MIB - 100)).then(() => {
    early = false;
  });
  gates[0]!.resolve();
  await reading;
  expect(first.equals(DATA.subarray(500, 600))).toBe(true);
  expect(early).toBe(true);
  gates[1]!.resolve();
  await later;
  expect(second.equals(DATA.subarray(MIB - 100, MIB + 100))).toBe(true);
  const past = Promise.resolve(source.read(first, DATA.length - 50));
  for (const gate of gates) gate.resolve();
  await expect(past).rejects.toMatchObject({ fault: 'corrupt' });
  expect(source.size).toBe(DATA.length);
  await source.read(first, DATA.length - 100);
  expect(first.equals(DATA.subarray(-100))).toBe(true);
});

test('an error of the run is the error of those who wait; the next read tries again', async () => {
  let broken = true;
  const what = stepwise([0, 1, 2, 3], async mib => {
    if (mib === 1 && broken) throw new ImageError('corrupt', 'damaged');
  });
  await using source = make().growing(what);
  const part = Buffer.alloc(10);
  await expect(Promise.resolve(source.read(part, MIB))).rejects.toMatchObject({ fault: 'corrupt' });
  broken = false;
  await source.read(part, 2 * MIB);
  expect(part.equals(DATA.subarray(2 * MIB, 2 * MIB + 10))).toBe(true);
});

test('a program is killed in the midst of it: the next one goes on from there', { timeout: 30_000 }, async () => {
  const inside = path.join(folder, 'unpacked');
  const script = `
    import { localScratch } from ${JSON.stringify(path.join(import.meta.dirname, 'scratch.ts'))};
    const part = Buffer.alloc(${MIB}, 9);
    const scratch = localScratch({ folder: ${JSON.stringify(inside)}, most: null, keep: true, hint: '' });
    await scratch.unpacked({
      name: 'a', version: 'k', packed: 100, most: null,
      async *content({ restart }) {
        for (let mib = 0; mib < 80; mib++) {
          restart(mib);
          yield part;
        }
        await new Promise(resolve => setTimeout(resolve, 60_000));
      },
    });`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: 'ignore' });
  const ended = new Promise(resolve => child.once('exit', resolve));
  const kept = (): boolean => fs.existsSync(inside) && names().some(name => /\.67108864-63-\d+\.part$/.test(name));
  while (!kept()) await new Promise(resolve => setTimeout(resolve, 20));
  const asked: number[] = [];
  const what: Unpacking = {
    name: 'a',
    version: 'k',
    packed: 100,
    most: null,
    async *content(_told, from) {
      asked.push(from);
      for (let mib = from; mib < 90; mib++) yield Buffer.alloc(MIB, 9);
    },
  };
  child.kill('SIGKILL');
  await ended;
  await using source = await make().unpacked(what);
  expect(asked).toEqual([63]);
  expect(source.size).toBe(90 * MIB);
  const all = Buffer.alloc(90 * MIB);
  await source.read(all, 0);
  expect(all.equals(Buffer.alloc(90 * MIB, 9))).toBe(true);
  expect(names()).toEqual(['k.unpacked']);
});

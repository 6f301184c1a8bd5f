/** The example in docs/format-bml.md is a real file, and the adapter's front door. */
import fs from 'node:fs';
import { expect, test } from 'vitest';
import { memoryStore } from '../../src/stores/memory.ts';
import { bml } from './index.ts';
import { keyring, layerOf, openLayer, readAll, SECRET, writeLayer } from './kit.ts';

function example(): Uint8Array {
  const text = fs.readFileSync(new URL('../../docs/format-bml.md', import.meta.url), 'utf8');
  const dump = text.split('```hexdump\n')[1]!.split('```')[0]!;
  const lines = dump.trim().split('\n');
  const at = (line: string): number => Number.parseInt(line.slice(0, 8), 16);
  const bytes = new Uint8Array(at(lines.at(-1)!) + 16);
  for (const line of lines) bytes.set(Buffer.from(line.slice(8).replaceAll(' ', ''), 'hex'), at(line));
  return bytes;
}

test('the worked example opens, checks and reads as the text says', async () => {
  const store = memoryStore({ 'example.bml': example() });
  await using image = await openLayer(store, 'example.bml', SECRET);
  expect(image.warnings).toEqual([]);
  const point = image.points[0]!;
  expect(point).toMatchObject({ problem: null, set: 'machine', type: 'full', parent: null });
  expect(point.time).toEqual(new Date('2026-02-03T04:05:06Z'));
  expect(Buffer.from(await readAll(layerOf(image)))).toEqual(
    Buffer.concat([Buffer.alloc(4096), Buffer.alloc(4096, 'bootmount ')]),
  );
  expect(layerOf(image).locate(0, 8192)).toEqual({ kind: 'absent', length: 4096 });
  const found: unknown[] = [];
  await image.verify!({ level: 3, found: p => found.push(p), progress() {}, signal: new AbortController().signal });
  expect(found).toEqual([]);
});

test('probing knows its own files and no others', async () => {
  const bytes = example();
  expect(bml.probe(bytes.subarray(0, 65536), bytes.subarray(-65536), 'x')).toBe('certain');
  expect(bml.probe(bytes.subarray(0, 65536), bytes.subarray(-65536), 'x.bml.w-1.partial')).toBe('no');
  // The second superblock and the trailer tell, too.
  const damaged = bytes.slice();
  damaged[3] = 0;
  expect(bml.probe(damaged.subarray(0, 65536), damaged.subarray(-65536), 'x')).toBe('certain');
  damaged[61443] = 0;
  expect(bml.probe(damaged.subarray(0, 65536), damaged.subarray(-65536), 'x')).toBe('maybe');
  expect(bml.probe(new Uint8Array(0), new Uint8Array(0), 'x.bml')).toBe('no');
  expect(bml.probe(Buffer.from('QFI\xfb\0\0\0\x03', 'latin1'), new Uint8Array(512), 'x.bml')).toBe('no');
  for (const bad of [new Uint8Array(0), new Uint8Array(7), new Uint8Array(70_000)]) {
    const open = bml.open('x.bml', memoryStore({ 'x.bml': bad }), keyring());
    await expect(open).rejects.toMatchObject({ fault: 'not-this-format', where: { file: 'x.bml' } });
  }
});

test('only what was changed is in a child, and stored says how much', async () => {
  const store = memoryStore();
  const block = Buffer.from(Array.from({ length: 65536 }, (_, i) => (i * i * 31 + (i >> 3)) & 255));
  const size = 100 * 65536;
  const spec = { size, blockSize: 65536, compression: 0 };
  await writeLayer(
    store,
    'a.bml',
    spec,
    Array.from({ length: 50 }, (_, i) => [0, i, block] as const),
  );
  await using parent = await openLayer(store, 'a.bml');
  expect(parent.points[0]!.disks[0]!.stored).toBe(50 * 65536);
  await writeLayer(store, 'b.bml', { ...spec, parent }, [
    [0, 1, block.map(byte => byte ^ 1)],
    [0, 1, block.map(byte => byte ^ 2)],
    [0, 2, new Uint8Array(65536)],
  ]);
  await using child = await openLayer(store, 'b.bml');
  expect(child.points[0]!.disks[0]!.stored).toBe(65536);
  expect(store.bytes('b.bml').length).toBeLessThan(4 * 65536);
  await layerOf(child).load(0, size);
  expect(layerOf(child).locate(2 * 65536, size - 2 * 65536)).toEqual({ kind: 'zero', length: 65536 });
});

test('a layer that no tree needs any more may be gone, and only the points that need a lost one break', async () => {
  const store = memoryStore();
  const size = 2 * 4096;
  const write = async (name: string, from: string | null, seed: number) => {
    await using parent = from === null ? null : await openLayer(store, from);
    await writeLayer(store, name, { size, parent }, [
      [0, 0, Buffer.alloc(4096, seed)],
      [0, 1, Buffer.alloc(4096, seed + 1)],
    ]);
  };
  await write('0.bml', null, 1);
  await write('1.bml', '0.bml', 3);
  await write('2.bml', '1.bml', 5);
  await store.remove('1.bml');
  for (const name of ['0.bml', '2.bml']) {
    await using image = await openLayer(store, name);
    expect(image.points[0]!.problem).toBeNull();
  }
  await using newest = await openLayer(store, '2.bml');
  const read = await readAll(layerOf(newest));
  expect([read[0], read[4096]]).toEqual([5, 6]);
});

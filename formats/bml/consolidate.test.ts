/** What the format promises to a consolidation (section 11), shown by a small one that has no key. */
import { describe, expect, test } from 'vitest';
import { roundUp } from '../../src/base/range.ts';
import { viewOf } from '../../src/base/struct.ts';
import { type MemoryStore, memoryStore } from '../../src/stores/memory.ts';
import type { Place } from './crypto.ts';
import { buildHeld, buildIndex, indexKey } from './held.ts';
import { layerOf, openLayer, pattern, readAll, SECRET, type Write, writeLayer } from './kit.ts';
import { DATA, ENTRY, type Entry, entryAt, kindAt, NODE, nodePage, putEntry } from './node.ts';
import { fetchNode, fetchRecord, type NodePlace, type Objects } from './objects.ts';
import { insideOf, readTable } from './read.ts';
import { buildRecord } from './record.ts';
import { diskEntry, FIRST_RECORD, KEY_AREAS, PAGE, RECORD_HEADER, SLOTS, SUPERBLOCKS, sealCrc } from './structs.ts';
import { buildSlot, buildSuperblock, buildTrailer } from './superblock.ts';

/** A file in the making, and the index of what was copied into it. */
class Copy {
  bytes = new Uint8Array(FIRST_RECORD);
  readonly index: { key: Uint8Array; at: number }[] = [];
  readonly data: Uint8Array[] = [];

  append(part: Uint8Array, align: number, place?: Place): number {
    const at = roundUp(this.bytes.length, align);
    const grown = new Uint8Array(roundUp(at + part.length, 64));
    grown.set(this.bytes);
    grown.set(part, at);
    this.bytes = grown;
    if (place !== undefined) this.index.push({ key: indexKey(place), at });
    return at;
  }
}

/** Copies what lies below an entry of a node at `level`; the entry with its new place. */
async function copyBelow(
  out: Copy,
  objects: Objects,
  entry: Entry,
  level: number,
  at: NodePlace,
  blockSize: number,
): Promise<Entry> {
  const { layer } = objects.lines[entry.line]!;
  const { setId } = objects;
  if (entry.kind === DATA) {
    const place: Place = { setId, layer, kind: 'data', disk: at.disk, index: at.position, level: 0 };
    const record = await fetchRecord(objects, entry, place, null, found => found.record);
    out.data.push(record);
    return { ...entry, hint: out.append(record, 64, place) };
  }
  const bytes = (await fetchNode(objects, entry, at, null, blockSize)).bytes.slice();
  const { view } = nodePage(bytes);
  for (let slot = 0; slot < 128; slot++) {
    const kind = kindAt(view, slot * ENTRY);
    if (kind !== DATA && kind !== NODE) continue;
    const below = { disk: at.disk, level: level - 2, position: at.position * 128 + slot };
    putEntry(
      view,
      slot * ENTRY,
      await copyBelow(out, objects, entryAt(view, slot * ENTRY), level - 1, below, blockSize),
    );
  }
  const place: Place = { setId, layer, kind: 'node', disk: at.disk, index: at.position, level: at.level };
  const hint = out.append(buildRecord(place, entry.session, 0, 0, PAGE, [bytes]), 64, place);
  return { ...entry, codec: 0, stored: PAGE, hint };
}

/** Makes `to` out of the last point of `from` and all that it needs. */
async function consolidate(store: MemoryStore, from: string, to: string): Promise<Copy> {
  await using image = await openLayer(store, from);
  const { file, head, shelf, points } = insideOf(image)!;
  const { commit } = [...points.values()].at(-1)!;
  const lines = await readTable(file, commit);
  const wanted = new Map(lines.filter(line => line.live > 0).map(line => [line.id, line.file]));
  const files = [file, ...(await shelf.find(file.name, file.setId, wanted)).filter(one => one.name !== file.name)];
  const holders = lines.map(line => files.filter(one => one.layers.has(line.id)));
  const objects: Objects = { setId: head.setId, encrypted: head.encrypted, keys: null, lines, holders };
  const out = new Copy();
  const source = store.bytes(from);
  for (const at of KEY_AREAS) out.bytes.set(source.subarray(at, at + 24576), at);
  const fileId = new Uint8Array(16).fill(0xc0);
  for (const at of SUPERBLOCKS) out.bytes.set(buildSuperblock({ ...head, fileId }), at);
  const bytes = source.slice(commit.at, commit.at + commit.length);
  const view = viewOf(bytes);
  for (const [i, disk] of commit.disks.entries()) {
    const at = 256 + i * diskEntry.size + 48;
    const kind = kindAt(view, at);
    if (kind !== DATA && kind !== NODE) continue;
    const top = { disk: disk.number, level: disk.height, position: 0 };
    putEntry(view, at, await copyBelow(out, objects, entryAt(view, at), disk.height + 1, top, disk.blockSize));
  }
  const table = source.subarray(commit.tableAt, commit.tableAt + RECORD_HEADER + commit.tableStored);
  view.setBigUint64(208, BigInt(out.append(table, 64)), true);
  view.setBigUint64(232, BigInt(FIRST_RECORD), true);
  sealCrc(bytes);
  const held = lines.filter(line => line.live > 0).map(line => line.layer);
  const heldAt = out.append(buildHeld(held), 64);
  out.index.sort((a, b) => Buffer.compare(a.key, b.key));
  const indexAt = out.append(buildIndex(out.index), PAGE);
  const place = { at: out.append(bytes, PAGE), length: bytes.length, layer: commit.layer };
  const fileSize = place.at + place.length + PAGE;
  const more = { heldAt, held: held.length, indexAt, indexEntries: out.index.length };
  const tail = { sequence: 1, commits: [place], fileSize, setId: head.setId, fileId, ...more };
  out.append(buildTrailer(tail), PAGE);
  out.bytes.set(buildSlot(tail), SLOTS[0]);
  store.put(to, out.bytes);
  return out;
}

const SIZE = 300 * 4096;

/** Layers 0 to `count` - 1, each with a dozen changes. */
async function makeChain(secret: Uint8Array | null, count: number) {
  const store = memoryStore();
  const contents: Uint8Array[] = [];
  const identities: string[] = [];
  for (let i = 0; i < count; i++) {
    await using parent = i === 0 ? null : await openLayer(store, `${i - 1}.bml`, secret);
    const writes = Array.from(
      { length: i === 0 ? 200 : 2 },
      (_, n): Write => [0, (n * 7 * (i + 1)) % 300, n % 5 === 4 ? 'zero' : pattern(4096, i * 500 + n)],
    );
    await writeLayer(store, `${i}.bml`, { size: SIZE, parent, secret }, writes);
    await using image = await openLayer(store, `${i}.bml`, secret);
    contents.push(await readAll(layerOf(image)));
    identities.push(image.points[0]!.identity);
  }
  return { store, contents, identities };
}

async function verified(store: MemoryStore, name: string, secret: Uint8Array | null): Promise<unknown[]> {
  const found: unknown[] = [];
  await using image = await openLayer(store, name, secret);
  await image.verify!({ level: 3, found: p => found.push(p), progress() {}, signal: new AbortController().signal });
  return found;
}

describe.each([['plain', null] as const, ['encrypted', SECRET] as const])(
  'consolidation without a key, %s',
  (_, secret) => {
    test('of a whole chain: the same point, the same identity, records byte for byte', async () => {
      const { store, contents, identities } = await makeChain(secret, 5);
      const before = ['0', '1', '2', '3', '4'].map(n => Buffer.from(store.bytes(`${n}.bml`)));
      const { data } = await consolidate(store, '4.bml', 'all.bml');
      expect(data.length).toBeGreaterThan(100);
      for (const record of data) expect(before.some(file => file.includes(Buffer.from(record)))).toBe(true);
      for (let i = 0; i < 5; i++) await store.remove(`${i}.bml`);
      await using image = await openLayer(store, 'all.bml', secret);
      expect(image.points[0]!.identity).toBe(identities[4]);
      expect(Buffer.compare(await readAll(layerOf(image)), contents[4]!)).toBe(0);
      expect(await verified(store, 'all.bml', secret)).toEqual([]);
      await expect(openLayer(store, '3.bml')).rejects.toMatchObject({ fault: 'not-found' });
    });

    test('of the base: layers on top, with hints into files that are gone, read through the index', async () => {
      const { store, contents } = await makeChain(secret, 6);
      await consolidate(store, '3.bml', 'base.bml');
      for (let i = 0; i < 4; i++) await store.remove(`${i}.bml`);
      for (const i of [4, 5]) {
        await using image = await openLayer(store, `${i}.bml`, secret);
        expect(image.points[0]!.problem).toBeNull();
        expect(Buffer.compare(await readAll(layerOf(image)), contents[i]!)).toBe(0);
      }
      await using parent = await openLayer(store, '5.bml', secret);
      await writeLayer(store, '6.bml', { size: SIZE, parent, secret }, [[0, 0, pattern(4096, 9999)]]);
      await using child = await openLayer(store, '6.bml', secret);
      const read = await readAll(layerOf(child));
      expect(Buffer.compare(read.subarray(0, 4096), pattern(4096, 9999))).toBe(0);
      expect(Buffer.compare(read.subarray(4096), contents[5]!.subarray(4096))).toBe(0);
      await store.remove('base.bml');
      await using broken = await openLayer(memoryStore({ '5.bml': store.bytes('5.bml') }), '5.bml', secret);
      expect(broken.points[0]!.problem!.fault).toBe('broken-chain');
    });

    test('a damaged trailer loses nothing: the commit slot knows the index too', async () => {
      const { store, contents } = await makeChain(secret, 3);
      await consolidate(store, '1.bml', 'base.bml');
      const bytes = store.bytes('base.bml');
      bytes[bytes.length - 100]! ^= 1;
      const left = memoryStore({ 'base.bml': bytes, '2.bml': store.bytes('2.bml') });
      await using image = await openLayer(left, '2.bml', secret);
      expect(Buffer.compare(await readAll(layerOf(image)), contents[2]!)).toBe(0);
    });

    test('a damaged index page is an error, not a hole', async () => {
      const { store } = await makeChain(secret, 3);
      await consolidate(store, '1.bml', 'base.bml');
      for (let i = 0; i < 2; i++) await store.remove(`${i}.bml`);
      const bytes = store.bytes('base.bml');
      const trailer = viewOf(bytes.subarray(bytes.length - PAGE));
      const indexAt = trailer.getUint32(48, true);
      const pages = Math.ceil(trailer.getUint32(56, true) / 85);
      for (let page = 0; page < pages; page++) bytes[indexAt + page * PAGE + 60]! ^= 1;
      const damaged = memoryStore({ 'base.bml': bytes, '2.bml': store.bytes('2.bml') });
      await using image = await openLayer(damaged, '2.bml', secret);
      await expect(readAll(layerOf(image))).rejects.toMatchObject({ fault: 'corrupt' });
      expect((await verified(damaged, 'base.bml', secret)).length).toBeGreaterThan(0);
    });
  },
);

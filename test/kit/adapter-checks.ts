/** What every adapter has to hold for every image. Each check throws when it does not. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import type { Adapter, Bytes, Keyring, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { random } from './random.ts';
import { locate, openStack, type Stack } from './reference.ts';
import { sampleEnds } from './samples.ts';
import { counted, flipped, truncated } from './tampered.ts';
import { BLOCK, CHUNK, type Content, readWhole } from './whole.ts';

export type { Content } from './whole.ts';

/** Bytes of the file that hold structures. `checked`: a checksum covers them, so a flip may not go unnoticed. */
export interface Structure {
  readonly at: Bytes;
  readonly length: Bytes;
  readonly checked: boolean;
}

export interface Subject {
  readonly adapter: Adapter;
  readonly others: readonly Adapter[];
  readonly store: Store;
  /** The image's name in the store, and its folder on disk. */
  readonly name: string;
  readonly folder: string;
  readonly keys: Keyring;
  readonly content: Content;
  readonly structures: readonly Structure[];
  /** Names of sample formats that this adapter may claim: its own, and containers of it. */
  readonly formats: readonly string[];
  /** Path of the raw twin, outside the store; the digest check makes it where there is none. */
  readonly twin: string;
}

const open = (subject: Subject, store = subject.store): Promise<Stack> => openStack({ ...subject, store });

/** The whole disk has the expected digest. Leaves the raw twin that the other checks compare with. */
export async function digest(subject: Subject): Promise<void> {
  await using stack = await open(subject);
  const fd = fs.existsSync(subject.twin) ? null : fs.openSync(subject.twin, 'wx');
  const got = await readWhole(stack, (block, at) => {
    if (fd !== null) fs.writeSync(fd, block, 0, block.length, at);
  });
  if (fd !== null) {
    fs.ftruncateSync(fd, stack.size);
    fs.closeSync(fd);
  }
  assert.equal(got.size, subject.content.size, 'size of the disk');
  if (subject.content.sha256 !== null && got.sha256 !== null) assert.equal(got.sha256, subject.content.sha256);
  else assert.equal(got.nz64k, subject.content.nz64k);
}

interface Twin extends Disposable {
  read(length: number, at: Bytes): Uint8Array;
}

async function twinOf(subject: Subject): Promise<Twin> {
  if (!fs.existsSync(subject.twin)) await digest(subject);
  const fd = fs.openSync(subject.twin, 'r');
  return {
    read(length, at) {
      const out = new Uint8Array(length);
      fs.readSync(fd, out, 0, length, at);
      return out;
    },
    [Symbol.dispose]: () => fs.closeSync(fd),
  };
}

async function readsAs(stack: Stack, twin: Twin, at: Bytes, length: number): Promise<void> {
  const got = new Uint8Array(length).fill(0xcc);
  await stack.read(got, at);
  const want = twin.read(length, at);
  if (Buffer.compare(got, want) === 0) return;
  const first = got.findIndex((byte, i) => byte !== want[i]);
  assert.fail(`read of ${length} bytes at ${at} is wrong from ${at + first} on`);
}

/** 2,000 reads at any offset and of any length: the same bytes as the raw twin. */
export async function randomReads(subject: Subject): Promise<void> {
  await using stack = await open(subject);
  using twin = await twinOf(subject);
  const { below } = random(1);
  for (let i = 0; i < 2000; i++) {
    const at = below(stack.size);
    const length = 1 + below(Math.min(stack.size - at, 2 ** (3 + below(16))));
    await readsAs(stack, twin, at, length);
  }
}

/** One byte before to one byte after every border of a block and of data, as far as there is time for. */
export async function borders(subject: Subject): Promise<void> {
  await using stack = await open(subject);
  using twin = await twinOf(subject);
  const at = new Set<Bytes>();
  const { blockSize } = stack.layers[0]!;
  for (let b = blockSize; b < stack.size && at.size < 500; b += blockSize) at.add(b);
  for (let pos = 0; pos < stack.size && at.size < 1500; ) {
    pos += (await stack.extent(pos, stack.size - pos)).length;
    at.add(pos);
  }
  for (const border of at) {
    for (const [from, to] of [
      [border - 1, border + 1],
      [border - 513, border + 4095],
      [border, border + 1],
      [border - 1, border],
    ] as const) {
      const start = Math.max(0, from);
      const end = Math.min(stack.size, to);
      if (end > start) await readsAs(stack, twin, start, end - start);
    }
  }
}

/** `locate` answers for every byte without a gap, and says the same when it is asked for less or from the middle. */
export async function locates(subject: Subject): Promise<void> {
  await using stack = await open(subject);
  const { below } = random(2);
  for (const layer of stack.layers) {
    let steps = 0;
    for (let at = 0; at < layer.size && steps < 50_000; steps++) {
      const run = await locate(layer, at, layer.size - at);
      const inside = below(run.length);
      for (const [from, limit] of [
        [at, 1],
        [at + inside, run.length - inside],
        [at + run.length - 1, 1],
      ] as const) {
        const part = await locate(layer, from, limit);
        assert.equal(part.kind, run.kind, `locate(${from}) disagrees with locate(${at})`);
        if (part.kind === 'plain' && run.kind === 'plain') assert.equal(part.at - from, run.at - at, `locate(${from})`);
        if (part.kind === 'packed' && run.kind === 'packed' && part.unit === run.unit) {
          assert.equal(part.within - from, run.within - at, `locate(${from})`);
        }
      }
      at += run.length;
    }
  }
}

/** 32 readers at once get the right bytes, and waiting for the same metadata costs one read. */
export async function parallel(subject: Subject): Promise<void> {
  using twin = await twinOf(subject);
  const readsFor = async (readers: number): Promise<number> => {
    const { store, reads } = counted(subject.store);
    await using stack = await open(subject, store);
    const before = reads();
    const at = Math.floor(stack.size / 2);
    await Promise.all(Array.from({ length: readers }, () => stack.layers[0]!.load(at, stack.size - at)));
    return reads() - before;
  };
  assert.equal(await readsFor(32), await readsFor(1), 'reads for one load and for 32 at once');
  await using stack = await open(subject, counted(subject.store).store);
  const { below } = random(3);
  const near = below(stack.size);
  const reader = async (): Promise<void> => {
    for (let i = 0; i < 20; i++) {
      const at = i % 2 === 0 ? below(stack.size) : Math.min(stack.size - 1, near + below(65_536));
      await readsAs(stack, twin, at, 1 + below(Math.min(stack.size - at, 32_768)));
    }
  };
  await Promise.all(Array.from({ length: 32 }, reader));
}

const MEMORY = 256 * 1_048_576;
const PATIENCE = 10_000;

/** In bytes, garbage included. */
const memoryNow = (): number => {
  const { arrayBuffers, heapUsed } = process.memoryUsage();
  return arrayBuffers + heapUsed;
};

/** Opens a damaged image and reads parts of it: only ImageErrors and right bytes, in bounded time and memory. */
async function survives(subject: Subject, store: Store, what: string, mayDiffer: boolean): Promise<void> {
  const { store: watched, open: openNow } = counted(store);
  using twin = await twinOf(subject);
  const { below } = random(4);
  const started = performance.now();
  const before = memoryNow();
  try {
    await using stack = await open(subject, watched);
    const differs = mayDiffer || stack.image.warnings.length > 0;
    if (!differs) assert.equal(stack.size, subject.content.size, `${what}: size of the disk`);
    for (let i = 0; i < 12; i++) {
      const at = below(stack.size);
      const part = new Uint8Array(1 + below(Math.min(stack.size - at, 65_536)));
      try {
        await stack.read(part, at);
        if (!differs && Buffer.compare(part, twin.read(part.length, at)) !== 0) {
          assert.fail(`${what}: wrong bytes at ${at} without an error or a warning`);
        }
      } catch (error) {
        if (!(error instanceof ImageError)) throw error;
      }
    }
  } catch (error) {
    if (!(error instanceof ImageError)) throw new Error(`${what}: ${String(error)}`, { cause: error });
  }
  // What earlier cases left to the collector is not this one's.
  const more = memoryNow() - before;
  assert.ok(more < MEMORY, `${what}: ${more} bytes of memory`);
  assert.ok(performance.now() - started < PATIENCE, `${what}: ${performance.now() - started} ms`);
  assert.equal(openNow(), 0, `${what}: a source is left open`);
}

const sizeOf = async (store: Store, name: string): Promise<Bytes> => {
  await using source = await store.open(name);
  return source.size;
};

/** The file ends early, at and around the borders of its structures. */
export async function truncation(subject: Subject): Promise<void> {
  const size = await sizeOf(subject.store, subject.name);
  const cuts = new Set([
    0,
    1,
    8,
    511,
    512,
    513,
    1024,
    4096,
    65_536,
    Math.floor(size / 2),
    size - 512,
    size - 511,
    size - 1,
  ]);
  for (const { at, length } of subject.structures) {
    for (const near of [-1, 0, 1]) {
      cuts.add(at + near);
      cuts.add(at + length + near);
    }
  }
  for (const cut of cuts) {
    if (cut >= 0 && cut < size) {
      await survives(subject, truncated(subject.store, subject.name, cut), `cut to ${cut} bytes`, false);
    }
  }
}

/** Flipped bits in the structures. */
export async function flips(subject: Subject): Promise<void> {
  assert.ok(subject.structures.length > 0, 'no structures are named');
  const { below, pick } = random(5);
  for (let i = 0; i < 250; i++) {
    const { at, length, checked } = pick(subject.structures);
    const flipAt = at + below(length);
    const mask = 2 ** below(8);
    const store = flipped(subject.store, subject.name, flipAt, mask);
    await survives(subject, store, `byte ${flipAt} changed by ${mask}`, !checked);
  }
}

/** Every source is closed after use, and after an open that fails. */
export async function closing(subject: Subject): Promise<void> {
  const { store, open: openNow } = counted(subject.store);
  const stack = await open(subject, store);
  await stack.read(new Uint8Array(1), 0);
  assert.ok(openNow() > 0, 'an open image holds no source');
  await stack[Symbol.asyncDispose]();
  assert.equal(openNow(), 0, 'sources left open');
}

/** Nothing in the folder changes, whatever is read. */
export async function neverWritten(subject: Subject): Promise<void> {
  const file = path.join(subject.folder, subject.name);
  const state = (): string => {
    const { size, mtimeMs, ino } = fs.statSync(file);
    return `${size} ${mtimeMs} ${ino} ${createHash('sha256').update(fs.readFileSync(file)).digest('hex')}`;
  };
  const names = (): string => fs.readdirSync(subject.folder).toSorted().join();
  const before = [state(), names()];
  await using stack = await open(subject);
  await stack.read(new Uint8Array(Math.min(stack.size, CHUNK)), 0);
  assert.deepEqual([state(), names()], before);
}

/** Without its parent a child opens and says so; the chain is then broken, not silently full of zeros. */
export async function missingParent(subject: Subject): Promise<void> {
  const { adapter, keys, name } = subject;
  const alone: Store = {
    ...subject.store,
    async *list() {
      for await (const entry of subject.store.list()) if (entry.name === name) yield entry;
    },
    open: wanted =>
      wanted === name
        ? subject.store.open(name)
        : Promise.reject(new ImageError('not-found', 'no such file', { file: wanted })),
  };
  const image = await adapter.open(name, alone, keys);
  const isChild = image.points.at(-1)?.parent !== null;
  await image[Symbol.asyncDispose]();
  if (isChild) await assert.rejects(open(subject, alone), { fault: 'broken-chain' });
  else await (await open(subject, alone))[Symbol.asyncDispose]();
}

/** Certain about its own image, and 'no' to every sample of other formats. */
export async function probes(subject: Subject): Promise<void> {
  const size = await sizeOf(subject.store, subject.name);
  await using source = await subject.store.open(subject.name);
  const length = Math.min(size, BLOCK);
  const head = new Uint8Array(length);
  const tail = new Uint8Array(length);
  await source.read(head, 0);
  await source.read(tail, size - length);
  assert.equal(subject.adapter.probe(head, tail, subject.name), 'certain', 'its own image');
  for (const other of sampleEnds()) {
    if (subject.formats.includes(other.format)) continue;
    assert.equal(subject.adapter.probe(other.head, other.tail, path.basename(other.file)), 'no', other.file);
  }
  for (const junk of [new Uint8Array(0), new Uint8Array(1), new Uint8Array(511), new Uint8Array(BLOCK)]) {
    assert.equal(subject.adapter.probe(junk, junk, 'junk'), 'no', `${junk.length} zeros`);
  }
}

/** An encrypted image without a secret is locked, with a wrong one it says so; neither shows a disk. */
export async function wrongKey(subject: Subject): Promise<void> {
  const { adapter, store, name, keys } = subject;
  await using image = await adapter.open(name, store, keys);
  if (!image.encrypted) return;
  const faultWith = async (secrets: readonly Uint8Array[]): Promise<string | undefined> => {
    try {
      await using closed = await adapter.open(name, store, { secrets: async () => secrets });
      const point = closed.points.at(-1);
      assert.ok(point?.disks.every(disk => disk.layer === null) ?? true, 'a disk is shown without its key');
      return point?.problem?.fault;
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      return error.fault;
    }
  };
  assert.equal(await faultWith([]), 'locked', 'without a secret');
  assert.equal(await faultWith([Buffer.from('not the secret')]), 'wrong-key', 'with a wrong secret');
}

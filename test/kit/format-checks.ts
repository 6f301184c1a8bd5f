/** What every disk format has to hold for every disk. Each check throws when it does not. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import type { Adapter, ByteSource, Bytes, Disk, DiskFormat, Store, VirtualFile } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { diskPiece, virtualFile } from '../../src/base/pieces.ts';
import { roundUp } from '../../src/base/range.ts';
import { readView, seekView, viewExtent } from '../../src/views/view.ts';
import { lazyDisk, materialize } from './disks.ts';
import { fileDigest, qemuImg } from './oracles.ts';
import { random } from './random.ts';
import { openStack } from './reference.ts';

/** One disk in one layout. */
export interface FormatSubject {
  readonly format: DiskFormat;
  /** Opens what the format makes; null: there is none. */
  readonly adapter: Adapter | null;
  /** Name of the format in QEMU's tools, null where they have none. */
  readonly qemu: string | null;
  /** `qemu-img check` knows the format. */
  readonly checkable: boolean;
  /** `qemu-img map` tells the holes of the format. */
  readonly holes: boolean;
  /** SHA-256 of the disk as another program reads it from the file; null: there is no second reader. */
  readonly second: ((file: string) => Promise<string>) | null;
  readonly disk: Disk;
  readonly writable: boolean;
  /** Scratch folder. */
  readonly folder: string;
}

/** Files up to this length are read whole, and disks up to this length are given to programs that fill in the holes. */
const WHOLE = 134_217_728;

export function layoutOf(subject: FormatSubject, disk = subject.disk): readonly VirtualFile[] {
  return subject.format.layout(disk, { writable: subject.writable, name: 'disk0' });
}

/** The file that shows the disk: the largest one where the format has several. */
export function mainFile(files: readonly VirtualFile[]): VirtualFile {
  assert.ok(files.length > 0, 'no file');
  return files.toSorted((a, b) => b.size - a.size)[0]!;
}

const rawOf = (disk: Disk): VirtualFile => virtualFile('.raw', [diskPiece(roundUp(disk.size, 512))]);

/** Offsets worth looking at: the ends, the borders of pieces, and others. */
function places(file: VirtualFile, count: number): readonly Bytes[] {
  const { below } = random(7);
  const found = [0, file.size - 1];
  for (let at = 0, i = 0; at < file.size && i < count / 2; i++) {
    const piece = file.pieceAt(at);
    at = piece.from + piece.length;
    found.push(at - 1, Math.min(at, file.size - 1));
  }
  while (found.length < count) found.push(below(file.size));
  return found;
}

/** Pieces lie one after another without gaps, from any offset. */
export async function covers(subject: FormatSubject): Promise<void> {
  for (const file of layoutOf(subject)) {
    for (const at of places(file, 2000)) {
      const piece = file.pieceAt(at);
      assert.ok(piece.length > 0 && piece.from <= at && at < piece.from + piece.length, `the piece at ${at}`);
      assert.ok(piece.from + piece.length <= file.size, `the piece at ${at} reaches past the end`);
      if (piece.kind === 'disk') assert.ok(piece.at >= 0, `the disk piece at ${at}`);
    }
  }
}

/** Large files are compared at places, small ones whole. */
async function sameFile(a: VirtualFile, aDisk: Disk, b: VirtualFile, bDisk: Disk): Promise<void> {
  assert.equal(a.size, b.size);
  assert.equal(a.suffix, b.suffix);
  const length = 65_536;
  const wanted =
    a.size <= WHOLE / 2 ? Array.from({ length: Math.ceil(a.size / length) }, (_, i) => i * length) : places(a, 600);
  const [one, other] = [new Uint8Array(length), new Uint8Array(length)];
  for (const at of wanted) {
    const part = Math.min(length, a.size - at);
    await readView(a, aDisk, one.subarray(0, part), at);
    await readView(b, bDisk, other.subarray(0, part), at);
    assert.equal(Buffer.compare(one.subarray(0, part), other.subarray(0, part)), 0, `bytes from ${at} on`);
  }
}

/** The same disk gives the same bytes again, also when its metadata was not in memory and every read takes time. */
export async function repeatable(subject: FormatSubject): Promise<void> {
  const [first, second] = [layoutOf(subject), layoutOf(subject)];
  const slow = lazyDisk(subject.disk);
  const third = layoutOf(subject, slow);
  for (const [i, file] of first.entries()) {
    await sameFile(file, subject.disk, second[i]!, subject.disk);
    await sameFile(file, subject.disk, third[i]!, slow);
  }
}

/** Unaligned reads give the bytes that a reading from the start gives; holes read as zeros. */
export async function reads(subject: FormatSubject): Promise<void> {
  const { below } = random(8);
  for (const file of layoutOf(subject)) {
    for (const at of places(file, 400)) {
      const start = Math.max(0, at - below(5000));
      const length = Math.min(file.size - start, 10_000);
      const whole = new Uint8Array(length).fill(0xcc);
      await readView(file, subject.disk, whole, start);
      const cut = below(length);
      const parts = new Uint8Array(length).fill(0xcc);
      await readView(file, subject.disk, parts.subarray(cut), start + cut);
      await readView(file, subject.disk, parts.subarray(0, cut), start);
      assert.equal(Buffer.compare(whole, parts), 0, `read at ${start}, cut after ${cut}`);
      const extent = viewExtent(file, subject.disk, start);
      if (extent.kind === 'zero') {
        const hole = whole.subarray(0, Math.min(length, extent.length));
        assert.ok(
          hole.every(byte => byte === 0),
          `the hole at ${start} is not zero`,
        );
      }
    }
  }
}

/** Data and holes take turns until the end, which counts as a hole. */
export async function seeks(subject: FormatSubject): Promise<void> {
  const file = mainFile(layoutOf(subject));
  let at = 0;
  for (let i = 0; i < 10_000 && at < file.size; i++) {
    const data = await seekView(file, subject.disk, at, 'data');
    if (data === null) break;
    const hole = await seekView(file, subject.disk, data, 'hole');
    assert.ok(data >= at && hole !== null && hole > data && hole <= file.size, `seek from ${at}: ${data}, ${hole}`);
    at = hole;
  }
  assert.equal(await seekView(file, subject.disk, file.size, 'data'), null);
}

/** A store that holds the format's files without writing them anywhere. */
export function virtualStore(files: readonly VirtualFile[], disk: Disk, name: string): Store {
  const source = (file: VirtualFile): ByteSource => ({
    name: `${name}${file.suffix}`,
    size: file.size,
    read(into, at) {
      if (at + into.length > file.size) throw new ImageError('corrupt', 'the file ends early', { at });
      return readView(file, disk, into, at);
    },
    async [Symbol.asyncDispose]() {},
  });
  return {
    label: 'views',
    async *list() {
      for (const file of files) yield { name: `${name}${file.suffix}`, size: file.size, modified: new Date(0) };
    },
    async open(wanted) {
      const found = files.find(file => `${name}${file.suffix}` === wanted);
      if (found === undefined) throw new ImageError('not-found', 'no such file', { file: wanted });
      return source(found);
    },
    async [Symbol.asyncDispose]() {},
  };
}

/** Our own reader gets the disk back from the view. */
export async function ownAdapter(subject: FormatSubject): Promise<void> {
  const { adapter, disk } = subject;
  assert.ok(adapter !== null, 'no adapter');
  const files = layoutOf(subject);
  const file = mainFile(files);
  const store = virtualStore(files, disk, 'disk0');
  await using stack = await openStack({
    adapter,
    store,
    name: `disk0${file.suffix}`,
    keys: { secrets: async () => [] },
  });
  assert.equal(stack.size, roundUp(disk.size, 512), 'size of the disk');
  const raw = rawOf(disk);
  const got = virtualFile('.raw', [diskPiece(stack.size)]);
  const asDisk: Disk = {
    id: 'read back',
    size: stack.size,
    sectorSize: 512,
    read: (into, at) => stack.read(into, at),
    extent: (_at, limit) => ({ kind: 'data', length: limit }),
    async load() {},
    async [Symbol.asyncDispose]() {},
  };
  await sameFile(raw, disk, got, asDisk);
}

interface Written {
  /** Path of the file that shows the disk, and of its raw twin. */
  readonly file: string;
  readonly raw: string;
}

async function written(subject: FormatSubject): Promise<Written> {
  const files = layoutOf(subject);
  const folder = fs.mkdtempSync(path.join(subject.folder, 'files-'));
  for (const file of files) await materialize(file, subject.disk, path.join(folder, `disk0${file.suffix}`));
  const raw = path.join(folder, 'twin.img');
  await materialize(rawOf(subject.disk), subject.disk, raw);
  // The file to open is the one with the metadata: the first.
  return { file: path.join(folder, `disk0${files[0]!.suffix}`), raw };
}

/** QEMU opens the file, finds nothing wrong with it, and reads the same disk. */
export async function qemuReads(subject: FormatSubject): Promise<void> {
  const { qemu, checkable, holes, disk, writable } = subject;
  assert.ok(qemu !== null, 'QEMU does not know the format');
  const { file, raw } = await written(subject);
  assert.equal(await qemuImg.size(file, qemu), roundUp(disk.size, 512), 'size of the disk');
  if (checkable) await qemuImg.check(file, qemu);
  if (disk.size <= WHOLE) await qemuImg.compare(file, qemu, raw, 'raw');
  if (holes && !writable) await sameHoles(disk, await qemuImg.map(file, qemu));
}

/** Length of the largest block that a compact layout leaves out as a whole. */
const LARGEST_BLOCK = 2_097_152;

/** No data where the disk has a hole of at least a block, and no hole where it has data. */
async function sameHoles(disk: Disk, map: Awaited<ReturnType<typeof qemuImg.map>>): Promise<void> {
  for (const { start, length, zero } of map) {
    for (let at = start; at < Math.min(start + length, disk.size); ) {
      const extent = disk.extent(at, Math.min(start + length, disk.size) - at);
      assert.ok(extent !== null);
      if (zero) assert.equal(extent.kind, 'zero', `QEMU sees a hole at ${at}`);
      else if (extent.kind === 'zero') {
        assert.ok(extent.length < 2 * LARGEST_BLOCK, `QEMU sees data at ${at}, a hole of ${extent.length} bytes`);
      }
      at += extent.length;
    }
  }
}

/** A reader that has nothing to do with QEMU gets the same disk. */
export async function secondReader(subject: FormatSubject): Promise<void> {
  assert.ok(subject.second !== null, 'no second reader');
  const { file, raw } = await written(subject);
  assert.equal(await subject.second(file), await fileDigest(raw));
}

/** The kits themselves: readers and layouts with one planted fault each have to fail. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { vhd, vhdFormat } from '../../formats/vhd/index.ts';
import type { Adapter, DiskFormat, Image, Layer, PlacedPiece, Store, VirtualFile } from '../../src/base/contracts.ts';
import * as checks from './adapter-checks.ts';
import { subjectOf } from './adapter-kit.ts';
import { materialize, sparseDisk } from './disks.ts';
import * as formatChecks from './format-checks.ts';
import { random } from './random.ts';
import { scratch } from './samples.ts';

const MIB = 1_048_576;
const DISK = sparseDisk(9 * MIB + 512, 3, [
  { at: 0, length: 100_000 },
  { at: 2 * MIB - 700, length: 2 * MIB + 1400 },
  { at: 9 * MIB, length: 512 },
]);

let folder = '';
let subject: checks.Subject;

beforeAll(async () => {
  folder = scratch();
  subject = await subjectOf(
    vhd,
    {
      title: 'made here',
      needs: [],
      structures: file => [
        { at: 0, length: 1536, checked: true },
        { at: file.length - 512, length: 512, checked: true },
      ],
      async make(into) {
        const [file] = vhdFormat.layout(DISK, { writable: false, name: 'disk0' });
        await materialize(file!, DISK, path.join(into, 'made.vhd'));
        const raw = vhdFormat.layout(DISK, { writable: true, name: 'disk0' })[0]!;
        await materialize(raw, DISK, path.join(into, 'made.raw'));
        fs.truncateSync(path.join(into, 'made.raw'), DISK.size);
        return { file: 'made.vhd', raw: 'made.raw' };
      },
    },
    folder,
  );
});

afterAll(() => {
  fs.rmSync(folder, { recursive: true, force: true });
  fs.rmSync(`${folder}.twin`, { force: true });
});

/** The adapter with its layers, or all of what it opens, changed. */
function planted(change: {
  layer?: (layer: Layer) => Layer;
  open?: (store: Store) => Store;
  image?: (i: Image) => Image;
}) {
  const adapter: Adapter = {
    ...vhd,
    async open(name, store, keys) {
      const image = await vhd.open(name, change.open?.(store) ?? store, keys);
      const points = image.points.map(point => ({
        ...point,
        disks: point.disks.map(disk => ({ ...disk, layer: change.layer?.(disk.layer!) ?? disk.layer })),
      }));
      const opened: Image = { ...image, points };
      return change.image?.(opened) ?? opened;
    },
  };
  return { ...subject, adapter };
}

describe('a sound adapter passes', () => {
  for (const [name, check] of Object.entries(checks)) {
    if (typeof check === 'function') test(name, () => check(subject));
  }
});

describe('a planted fault fails', () => {
  test('reads that cross a block go on in the file', async () => {
    const bad = planted({
      layer: layer => ({
        ...layer,
        locate(at, limit) {
          const found = layer.locate(at, limit);
          return found?.kind === 'plain' ? { ...found, length: limit } : found;
        },
      }),
    });
    await expect(checks.randomReads(bad)).rejects.toThrow(/is wrong from/);
    await expect(checks.borders(bad)).rejects.toThrow(/is wrong from/);
    // Reading in order and in whole blocks does not show it: that is why there are random reads.
    await checks.digest(bad);
  });

  test('the last byte of a block comes from elsewhere', async () => {
    const bad = planted({
      layer: layer => ({
        ...layer,
        locate(at, limit) {
          const found = layer.locate(at, limit);
          const last = at % layer.blockSize === layer.blockSize - 1;
          return last && found?.kind === 'plain' ? { ...found, at: found.at - 1 } : found;
        },
      }),
    });
    await expect(checks.borders(bad)).rejects.toThrow(/is wrong from/);
    await expect(checks.locates(bad)).rejects.toThrow();
  });

  test('the middle of an empty stretch is not empty', async () => {
    const bad = planted({
      layer: layer => ({
        ...layer,
        locate(at, limit) {
          const found = layer.locate(at, limit);
          return found?.kind === 'zero' && at % 512 !== 0 ? { kind: 'absent', length: found.length } : found;
        },
      }),
    });
    await expect(checks.locates(bad)).rejects.toThrow(/disagrees/);
  });

  test('an answer of no length', async () => {
    const bad = planted({ layer: layer => ({ ...layer, locate: () => ({ kind: 'zero', length: 0 }) }) });
    await expect(checks.locates(bad)).rejects.toThrow(/answers for 0/);
  });

  test('every waiting reader loads for itself', async () => {
    const bad = planted({
      open: store => ({
        ...store,
        async open(name) {
          const source = await store.open(name);
          return {
            name: source.name,
            size: source.size,
            read: (i, at) => source.read(i, at),
            [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
          };
        },
      }),
      layer: layer => ({
        ...layer,
        async load(at, limit) {
          await layer.load(0, 1);
          const found = layer.locate(0, 1);
          if (found?.kind === 'plain') await found.source.read(new Uint8Array(1), 0);
          await layer.load(at, limit);
        },
      }),
    });
    await expect(checks.parallel(bad)).rejects.toThrow(/reads for one load/);
  });

  test('what lies beyond the end of the file reads as zeros', async () => {
    const bad = planted({
      open: store => ({
        ...store,
        async open(name) {
          const source = await store.open(name);
          return {
            name: source.name,
            size: 2 ** 30,
            async read(into, at) {
              const there = Math.max(0, Math.min(into.length, source.size - at));
              into.fill(0, there);
              if (there > 0) await source.read(into.subarray(0, there), at);
            },
            [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
          };
        },
      }),
      image: image => ({ ...image, warnings: [] }),
    });
    await expect(checks.truncation(bad)).rejects.toThrow(/wrong bytes/);
  });

  test('damage that nobody notices', async () => {
    // The block table has no checksum: to call it checked is the fault here.
    const bad = { ...subject, structures: [{ at: 1536, length: 20, checked: true }] };
    await expect(checks.flips(bad)).rejects.toThrow(/wrong bytes/);
  });

  test('damage ends in an error of the language', async () => {
    const bad: checks.Subject = {
      ...subject,
      adapter: { ...vhd, open: async () => Promise.reject(new RangeError('Invalid typed array length')) },
    };
    await expect(checks.flips(bad)).rejects.toThrow(/Invalid typed array length/);
  });

  test('a source stays open', async () => {
    const bad = planted({ image: image => ({ ...image, async [Symbol.asyncDispose]() {} }) });
    await expect(checks.closing(bad)).rejects.toThrow(/left open/);
  });

  test('the image is written to', async () => {
    const bad = planted({
      image: image => {
        fs.appendFileSync(path.join(subject.folder, 'made.vhd'), 'x');
        return image;
      },
    });
    const file = path.join(subject.folder, 'made.vhd');
    const { size } = fs.statSync(file);
    await expect(checks.neverWritten(bad)).rejects.toThrow();
    fs.truncateSync(file, size);
  });

  test('an encrypted image that any key opens', async () => {
    const bad = planted({ image: image => ({ ...image, encrypted: true }) });
    await expect(checks.wrongKey(bad)).rejects.toThrow(/without its key/);
  });

  test('a probe that claims everything', async () => {
    const bad = { ...subject, adapter: { ...vhd, probe: () => 'certain' as const } };
    await expect(checks.probes(bad)).rejects.toThrow();
  });
});

describe('a layout with a planted fault fails', () => {
  const withFile = (change: (file: VirtualFile) => VirtualFile): formatChecks.FormatSubject => {
    const format: DiskFormat = { ...vhdFormat, layout: (disk, spec) => vhdFormat.layout(disk, spec).map(change) };
    const nothing = { qemu: 'vpc', checkable: false, holes: true, second: null, writable: false };
    return { ...nothing, format, adapter: vhd, disk: DISK, folder };
  };
  const pieces = (change: (piece: PlacedPiece) => PlacedPiece): formatChecks.FormatSubject =>
    withFile(file => ({ ...file, pieceAt: at => change(file.pieceAt(at)) }));

  test('data one sector off', async () => {
    const bad = pieces(piece => (piece.kind === 'disk' ? { ...piece, at: piece.at + 512 } : piece));
    await expect(formatChecks.ownAdapter(bad)).rejects.toThrow(/bytes from/);
  });

  test('pieces that overlap the end', async () => {
    const bad = pieces(piece => ({ ...piece, length: piece.length + 1 }));
    await expect(formatChecks.covers(bad)).rejects.toThrow(/past the end/);
  });

  test('bytes that change from one mount to the next', async () => {
    const { below } = random(9);
    const bad = withFile(file => {
      const mark = below(256);
      return {
        ...file,
        pieceAt(at) {
          const piece = file.pieceAt(at);
          if (piece.kind !== 'made') return piece;
          return { ...piece, fill: into => void into.fill(mark) };
        },
      };
    });
    await expect(formatChecks.repeatable(bad)).rejects.toThrow(/bytes from/);
  });

  test('a hole where there is data', async () => {
    const bad = pieces(piece =>
      piece.kind === 'disk' && piece.at === 0 ? { kind: 'zero', length: piece.length, from: piece.from } : piece,
    );
    await expect(formatChecks.ownAdapter(bad)).rejects.toThrow(/bytes from/);
  });

  test('a piece that ignores where it is read from', async () => {
    const bad = pieces(piece => (piece.kind === 'made' ? { ...piece, fill: into => piece.fill(into, 0) } : piece));
    await expect(formatChecks.reads(bad)).rejects.toThrow(/cut after/);
  });
});

/**
 * Backups that were made to hurt: absurd counts, lists that lead to themselves, bombs. Each product's adapter refuses them, in
 * less than a second of processor time and 64 MiB.
 */
import { deflateRawSync, deflateSync, gzipSync, zstdCompressSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { volumeFile, zipFile } from '../../formats/aff4/fixtures.ts';
import { aff4 } from '../../formats/aff4/index.ts';
import { ewfFiles, fileHeader, section, summed, tableBody, volumeBody } from '../../formats/ewf/fixtures.ts';
import { ewf } from '../../formats/ewf/index.ts';
import { buildFile, bytesOf, content as noise } from '../../formats/macrium/fixtures.ts';
import { macrium } from '../../formats/macrium/index.ts';
import { version2 } from '../../formats/partclone/fixtures.ts';
import { clonezilla, partclone } from '../../formats/partclone/index.ts';
import { addSnapshot, encodeBlob, type Files as MutableFiles } from '../../formats/pbs/fixtures.ts';
import { pbs } from '../../formats/pbs/index.ts';
import { stream } from '../../formats/virtnbdbackup/fixtures.ts';
import { virtnbdbackup } from '../../formats/virtnbdbackup/index.ts';
import { archive } from '../../formats/vma/fixtures.ts';
import { vma } from '../../formats/vma/index.ts';
import { directoryFiles } from '../../formats/xo/fixtures.ts';
import { xo } from '../../formats/xo/index.ts';
import { tarMember } from '../../formats/xva/fixtures.ts';
import { xva } from '../../formats/xva/index.ts';
import type { Adapter } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { viewOf } from '../../src/base/struct.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { tryCase } from '../fuzz/case.ts';
import { DamagedFiles, type Files } from '../fuzz/damage.ts';
import { type FuzzTarget, orImageError } from '../fuzz/target.ts';
import { memoryScratch } from './memory-scratch.ts';
import { random } from './random.ts';

const MIB = 2 ** 20;
const BOMB = Buffer.alloc(128 * MIB);
let packed: Uint8Array | null = null;
const gzipped = (): Uint8Array => {
  packed ??= gzipSync(BOMB, { level: 1 });
  return packed;
};
/** Other tests run at the same time; processor time is what counts. */
const BOUNDS = { slowMs: 1000, memory: 64 * MIB };

interface Hostile {
  readonly what: string;
  readonly adapter: Adapter;
  readonly name: string;
  files(): Files | Promise<Files>;
}

const text = (content: string): Uint8Array => Buffer.from(content);

function changed(file: Uint8Array, change: (view: DataView) => void): Uint8Array {
  const copy = new Uint8Array(file);
  change(viewOf(copy));
  return copy;
}

// ── AFF4 ───────────────────────────────────────────────────────────────────────

const VOLUME = 'aff4://685e15cc-d0fb-4dbc-ba47-48117fc77044';
const aff4With = (edit: (turtle: string) => string): Files => ({
  'a.aff4': volumeFile({
    name: VOLUME,
    image: 'aff4://cf853d0b',
    size: 8192,
    streams: [{ name: 'aff4://c215ba20', content: new Uint8Array(8192).fill(3) }],
    changed: members => {
      members['information.turtle'] = text(edit(Buffer.from(members['information.turtle']!).toString()));
    },
  }),
});

/** A member that is packed: the entry of the directory says so. */
function deflatedTurtle(): Files {
  const packed = deflateRawSync(BOMB);
  const file = zipFile({ 'container.description': text(VOLUME), 'information.turtle': packed }, VOLUME);
  const at = Buffer.from(file).lastIndexOf(Buffer.from('information.turtle')) - 46;
  return {
    'a.aff4': changed(file, view => {
      view.setUint16(at + 10, 8, true);
      view.setBigUint64(at + 46 + 18 + 4, BigInt(BOMB.length), true);
    }),
  };
}

const AFF4: readonly Omit<Hostile, 'adapter'>[] = [
  {
    what: 'an archive of 2^50 members',
    name: 'a.aff4',
    files: () => {
      const { 'a.aff4': file } = aff4With(turtle => turtle);
      const end = Buffer.from(file!).lastIndexOf(Buffer.from('PK\x06\x06', 'latin1'));
      return { 'a.aff4': changed(file!, view => view.setBigUint64(end + 32, 2n ** 50n, true)) };
    },
  },
  { what: 'a description that is a bomb', name: 'a.aff4', files: deflatedTurtle },
  {
    what: 'objects in objects',
    name: 'a.aff4',
    files: () => aff4With(turtle => `${turtle}<x> a ${'['.repeat(500_000)}`),
  },
  {
    what: 'chunks of 2 GiB',
    name: 'a.aff4',
    files: () => aff4With(turtle => turtle.replace('chunkSize "4096"', `chunkSize "${2 ** 31}"`)),
  },
];

// ── EWF ────────────────────────────────────────────────────────────────────────

function ewfWith(...sections: readonly ((at: number) => Buffer)[]): Files {
  let file = Buffer.concat([fileHeader(1), section('volume', 13, volumeBody(65_536, 8))]);
  for (const make of sections) file = Buffer.concat([file, make(file.length)]);
  const done = section('done', file.length, new Uint8Array(0), file.length);
  return { 'a.E01': Buffer.concat([file, done]) };
}

const EWF: readonly Omit<Hostile, 'adapter'>[] = [
  {
    what: 'a list of sections that leads to itself',
    name: 'a.E01',
    files: () => ewfWith(at => section('sectors', at, new Uint8Array(100), at)),
  },
  {
    what: 'a table of 2^32 entries',
    name: 'a.E01',
    files: () =>
      ewfWith(
        at => section('sectors', at, new Uint8Array(100)),
        at =>
          section(
            'table',
            at,
            summed(
              changed(tableBody([], 0), view => view.setUint32(0, 0xffff_ffff, true)),
              20,
            ),
          ),
      ),
  },
  {
    what: 'a chunk that is a bomb',
    name: 'a.E01',
    files: () => {
      const file = Buffer.from(ewfFiles({ content: new Uint8Array(4096), compressed: true })['made.E01']!);
      const bomb = deflateSync(BOMB);
      const head = file.subarray(0, 13 + 76 + 1052);
      const sectors = section('sectors', head.length, bomb);
      const table = section('table', head.length + sectors.length, tableBody([head.length + 76 + 0x8000_0000], 0));
      const at = head.length + sectors.length + table.length;
      return { 'a.E01': Buffer.concat([head, sectors, table, section('done', at, new Uint8Array(0), at)]) };
    },
  },
];

// ── Macrium ────────────────────────────────────────────────────────────────────

function macriumWith(edit: (description: Record<string, never>) => void): Files {
  const disk = {
    format: 'mbr',
    size: 2 * MIB,
    bootTrack: noise(32_256, 9),
    partitions: [
      { start: 131_072, length: 65_536, blockSize: 65_536, blockCount: 1, blocks: new Map([[0, noise(65_536, 1)]]) },
    ],
  } as const;
  return { '0123456789ABCDEF-00-00.mrimgx': bytesOf(buildFile({ number: 0, disks: [disk], edit })) };
}

/** Every number of a name in a document. */
function replaceAll(document: unknown, name: string, value: number): void {
  if (typeof document !== 'object' || document === null) return;
  for (const [key, its] of Object.entries(document)) {
    if (key === name) (document as Record<string, unknown>)[key] = value;
    else replaceAll(its, name, value);
  }
}

const MACRIUM: readonly Omit<Hostile, 'adapter'>[] = ['block_count', 'block_size'].map(field => ({
  what: `${field} of 2^52`,
  name: '0123456789ABCDEF-00-00.mrimgx',
  files: () => macriumWith(description => replaceAll(description, field, 2 ** 52)),
}));

// ── Proxmox ────────────────────────────────────────────────────────────────────

const SNAPSHOT = 'vm/1/2026-11-20T10:00:00Z';
const BLOB = `${SNAPSHOT}/index.json.blob`;

async function pbsWith(edit: (files: MutableFiles) => void): Promise<Files> {
  const files: MutableFiles = {};
  const disks = [{ filename: 'drive-scsi0.img.fidx', content: new Uint8Array(65_536).fill(5) }];
  await addSnapshot(files, { folder: SNAPSHOT, chunkSize: 16_384, disks });
  edit(files);
  return files;
}

const PROXMOX: readonly Hostile[] = [
  {
    what: 'an index of 2^52 bytes',
    adapter: pbs,
    name: BLOB,
    files: () =>
      pbsWith(files => {
        const name = `${SNAPSHOT}/drive-scsi0.img.fidx`;
        files[name] = changed(files[name]!, view => view.setBigUint64(64, 2n ** 52n, true));
      }),
  },
  {
    what: 'a manifest that is a bomb',
    adapter: pbs,
    name: BLOB,
    files: () => pbsWith(files => void Object.assign(files, { [BLOB]: encodeBlob(BOMB, null) })),
  },
  {
    what: 'chunks that are bombs',
    adapter: pbs,
    name: BLOB,
    files: () =>
      pbsWith(files => {
        for (const name of Object.keys(files)) if (name.startsWith('.chunks')) files[name] = encodeBlob(BOMB, null);
      }),
  },
  {
    what: 'a header of 4 GiB',
    adapter: vma,
    name: 'a.vma',
    files: () => {
      const file = archive({ devices: [{ name: 'drive-scsi0', content: new Uint8Array(65_536).fill(1) }] });
      return { 'a.vma': changed(file, view => view.setUint32(56, 0xffff_fe00)) };
    },
  },
  {
    what: 'an archive that is a bomb',
    adapter: vma,
    name: 'a.vma.gz',
    files: () => {
      const file = archive({ devices: [{ name: 'drive-scsi0', content: new Uint8Array(65_536).fill(1) }] });
      return { 'a.vma.gz': gzipSync(Buffer.concat([file, BOMB]), { level: 1 }) };
    },
  },
];

// ── virtnbdbackup, partclone, Clonezilla ─────────────────────────────────────────────

const LIBVIRT: readonly Omit<Hostile, 'adapter'>[] = [
  {
    what: 'a first frame of 2^52 bytes',
    name: 'sda.full.data',
    files: () => ({ 'sda.full.data': text(`meta 0000000000000000 0010000000000000\r\n${'{'.repeat(100)}`) }),
  },
  {
    what: 'a range of 2^52 bytes',
    name: 'sda.full.data',
    files: () => {
      const ranges = [{ start: 0, data: new Uint8Array(4096).fill(1) }];
      const file = stream({ size: 4096, ranges, checkpoint: 'virtnbdbackup.0' });
      const at = file.indexOf('data 0');
      file.write('data 0000000000000000 0010000000000000\r\n', at, 'latin1');
      return { 'sda.full.data': file };
    },
  },
];

const image = (): Buffer =>
  version2({ blockSize: 1024, blocks: 200, mode: 32, perSum: 16, reseed: true, bitmap: 1 }) as Buffer;

const partedOf = (sectors: string): Files => ({
  'i/parts': text('sda1\n'),
  'i/disk': text('sda\n'),
  'i/sda-pt.parted': text(`Disk /dev/sda: ${sectors}s\nSector size (logical/physical): 512B/512B\n`),
  'i/sda-pt.sf': text('label: dos\nunit: sectors\n\n/dev/sda1 : start= 2048, size= 2048, type=83\n'),
  'i/sda1.ext4-ptcl-img.uncomp': image(),
});

const CLONES: readonly Hostile[] = [
  {
    what: 'a volume of 2^60 blocks',
    adapter: partclone,
    name: 'a.pcl',
    files: () => ({ 'a.pcl': changed(image(), view => view.setBigUint64(60, 2n ** 60n, true)) }),
  },
  {
    what: 'an image that is a bomb',
    adapter: partclone,
    name: 'a.pcl.zst',
    files: () => ({ 'a.pcl.zst': zstdCompressSync(Buffer.concat([image(), BOMB])) }),
  },
  {
    what: 'a partition of 2^60 sectors',
    adapter: clonezilla,
    name: 'i/parts',
    files: () => ({
      ...partedOf('8192'),
      'i/sda-pt.sf': text(`label: dos\n\n/dev/sda1 : start= 2048, size= ${2n ** 60n}, type=83\n`),
    }),
  },
  {
    what: 'a table of 2^17 partitions',
    adapter: clonezilla,
    name: 'i/parts',
    files: () => ({
      ...partedOf('8192'),
      'i/sda-pt.sf': text(`label: dos\n\n${'/dev/sda5 : start= 2048, size= 1, type=5\n'.repeat(131_072)}`),
    }),
  },
];

// ── Xen ─────────────────────────────────────────────────────────────────────────

const xoWith = (edit: (files: Record<string, Uint8Array>) => void, filter: 'none' | 'gzip' = 'none'): Files => {
  const blocks = new Map([[0, { data: new Uint8Array(65_536).fill(4) }]]);
  const spec = { uuid: 1, size: 131_072, blockSize: 65_536, blocks, filter };
  const files = directoryFiles('data/1.vhd', spec, ['20261120T100000Z.alias.vhd', 'data/1.vhd']);
  edit(files);
  return files;
};

const laughs = (): string => {
  const entities = Array.from({ length: 30 }, (_, i) => `<!ENTITY l${i + 1} "&l${i};&l${i};">`).join('');
  return `<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "ha">${entities}]><value>&l30;</value>`;
};

const xvaWith = (description: string): Files => ({
  'a.xva': Buffer.concat([tarMember('ova.xml', text(description)), Buffer.alloc(1024)]),
});

const XEN: readonly Hostile[] = [
  { what: 'entities that double', adapter: xva, name: 'a.xva', files: () => xvaWith(laughs()) },
  {
    what: 'values in values',
    adapter: xva,
    name: 'a.xva',
    files: () => xvaWith(`<value>${'<array><data><value>'.repeat(100_000)}`),
  },
  {
    what: 'a description of 8 GiB',
    adapter: xva,
    name: 'a.xva',
    files: () => {
      const file = Buffer.from(xvaWith('<value/>')['a.xva']!);
      file.write('77777777777\0', 124, 'latin1');
      file.fill(0x20, 148, 156);
      const sum = file.subarray(0, 512).reduce((total, byte) => total + byte, 0);
      file.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
      return { 'a.xva': file };
    },
  },
  {
    what: 'an alias that leads to itself',
    adapter: xo,
    name: '20261120T100000Z.alias.vhd',
    files: () => ({ '20261120T100000Z.alias.vhd': text('20261120T100000Z.alias.vhd') }),
  },
  {
    what: 'blocks that are bombs',
    adapter: xo,
    name: '20261120T100000Z.alias.vhd',
    files: () =>
      xoWith(files => {
        for (const name of Object.keys(files)) if (name.includes('/blocks/')) files[name] = gzipped();
      }, 'gzip'),
  },
  {
    what: 'a table that is a bomb',
    adapter: xo,
    name: '20261120T100000Z.alias.vhd',
    files: () => xoWith(files => void Object.assign(files, { 'data/1.vhd/bat': gzipped() }), 'gzip'),
  },
];

const of = (adapter: Adapter, list: readonly Omit<Hostile, 'adapter'>[]): readonly Hostile[] =>
  list.map(each => ({ ...each, adapter }));

const TABLE: readonly Hostile[] = [
  ...of(aff4, AFF4),
  ...of(ewf, EWF),
  ...of(macrium, MACRIUM),
  ...of(virtnbdbackup, LIBVIRT),
  ...PROXMOX,
  ...CLONES,
  ...XEN,
];

/** Opens, reads the first bytes of every disk, verifies. What fails says so as an ImageError, and is counted. */
function reading(adapter: Adapter, refusals: ImageError[]): FuzzTarget {
  const noting = (work: () => unknown): Promise<void> =>
    orImageError(async () => {
      try {
        await work();
      } catch (error) {
        if (error instanceof ImageError) refusals.push(error);
        throw error;
      }
    });
  return {
    needs: [],
    seeds: async () => [],
    exercise: (store, name) =>
      noting(async () => {
        await using opened = await adapter.open(name, store, { secrets: async () => [] }, memoryScratch());
        for (const { disks, problem } of opened.points) {
          if (problem !== null) refusals.push(problem);
          for (const { layer } of disks) {
            if (layer === null || layer.size === 0) continue;
            await noting(async () => {
              await layer.load(0, 4096);
              const place = layer.locate(0, 4096);
              if (place?.kind === 'packed') await layer.unpack(place.unit, new Uint8Array(layer.blockSize));
              if (place?.kind === 'plain') await place.source.read(new Uint8Array(place.length), place.at);
            });
          }
        }
      }),
  };
}

describe.each(TABLE)('$adapter.name: $what', ({ adapter, name, files }) => {
  test('is refused in time and in little memory', async () => {
    const made = await files();
    const refusals: ImageError[] = [];
    const target = reading(adapter, refusals);
    const wrong = await tryCase(target, () => ({ name, files: new DamagedFiles(made), numbers: random(1) }), BOUNDS);
    expect(wrong).toBeNull();
    expect(refusals.length).toBeGreaterThan(0);
  });
});

test('every product is in the table', () => {
  const there = new Set(TABLE.map(({ adapter }) => adapter));
  expect(
    [aff4, ewf, macrium, pbs, vma, virtnbdbackup, partclone, clonezilla, xva, xo].filter(a => !there.has(a)),
  ).toEqual([]);
});

test('what is sound is no refusal', async () => {
  const refusals: ImageError[] = [];
  const store = memoryStore({ ...aff4With(turtle => turtle) } as Record<string, Uint8Array>);
  await reading(aff4, refusals).exercise(store, 'a.aff4', random(1));
  expect(refusals).toEqual([]);
});

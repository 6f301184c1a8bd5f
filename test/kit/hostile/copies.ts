/** Backups of virtnbdbackup, partclone, Clonezilla, XenServer and Xen Orchestra that were made to hurt. */
import { zstdCompressSync } from 'node:zlib';
import { version2 } from '../../../formats/partclone/fixtures.ts';
import { clonezilla, partclone } from '../../../formats/partclone/index.ts';
import { stream } from '../../../formats/virtnbdbackup/fixtures.ts';
import { directoryFiles } from '../../../formats/xo/fixtures.ts';
import { xo } from '../../../formats/xo/index.ts';
import { tarMember } from '../../../formats/xva/fixtures.ts';
import { xva } from '../../../formats/xva/index.ts';
import type { Files } from '../../fuzz/damage.ts';
import { BOMB, changed, gzipped, type Hostile, text } from './hostile.ts';

// ── virtnbdbackup, partclone, Clonezilla ─────────────────────────────────────────────

export const LIBVIRT: readonly Omit<Hostile, 'adapter'>[] = [
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

export const CLONES: readonly Hostile[] = [
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

export const XEN: readonly Hostile[] = [
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

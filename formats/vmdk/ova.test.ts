import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Problem } from '../../src/base/contracts.ts';
import { localStore } from '../../src/stores/local.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { adapterKit, type MadeImage } from '../../test/kit/adapter-kit.ts';
import { pattern } from '../../test/kit/disks.ts';
import { missing, qemuImg, qemuIo, run } from '../../test/kit/oracles.ts';
import { openStack } from '../../test/kit/reference.ts';
import { scratch } from '../../test/kit/samples.ts';
import { descriptor, hosted } from './fixtures.ts';
import { ova } from './index.ts';
import { parseOvf } from './ovf.ts';

const keys = { secrets: async () => [] };
const SCHEMA = 'http://schemas.dmtf.org/ovf/envelope/1';

const envelope = (
  files: string,
  disks: string,
  name = 'Web &amp; mail',
): string => `<?xml version="1.0" encoding="UTF-8"?>
<!-- <DiskSection> in a comment -->
<ovf:Envelope xmlns:ovf="${SCHEMA}" xmlns="${SCHEMA}">
  <References>${files}</References>
  <DiskSection><Info>Disks > all</Info>${disks}</DiskSection>
  <VirtualSystem ovf:id="vm"><Info><![CDATA[<Name>no</Name>]]></Info><Name>${name}</Name></VirtualSystem>
</ovf:Envelope>`;
const VMDK_URI = 'http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized';
const file = (id: string, href: string, more = ''): string => `<File ovf:id="${id}" ovf:href='${href}' ${more}/>`;
const diskOf = (ref: string | null, capacity: string, more = `ovf:format="${VMDK_URI}"`): string =>
  `<Disk ovf:diskId="d-${ref}" ${ref === null ? '' : `ovf:fileRef="${ref}"`} ovf:capacity="${capacity}" ${more}/>`;

/** What VMware, VirtualBox and others do: the members by name, one after another. */
function archive(format: string, member: string): MadeImage {
  return {
    title: `${format}, a name of ${member.length} characters`,
    needs: ['qemu-img', 'qemu-io', 'tar'],
    structures: bytes => [
      { at: 0, length: 512, checked: true },
      { at: bytes.length - 1024, length: 1024, checked: false },
    ],
    async make(folder) {
      const at = (name: string): string => path.join(folder, name);
      await qemuImg.create(at('made.raw'), 'raw', '20M');
      await qemuIo(at('made.raw'), 'raw', ['write -P 5 1M 2M', 'write -P 6 19M 1M']);
      await qemuImg.convert(at('made.raw'), 'raw', at(member), 'vmdk', ['-o', 'subformat=streamOptimized']);
      const ovf = envelope(
        file('f1', member),
        diskOf('f1', '20', `ovf:capacityAllocationUnits="byte * 2^20" ovf:format="${VMDK_URI}"`),
      );
      fs.writeFileSync(at('machine.ovf'), ovf);
      await run('tar', [`--format=${format}`, '-cf', at('machine.ova'), '-C', folder, 'machine.ovf', member]);
      fs.rmSync(at('machine.ovf'));
      fs.rmSync(at(member));
      return { file: 'machine.ova', raw: 'made.raw' };
    },
  };
}

const LONG_NAME = `machine-${'x'.repeat(110)}-disk1.vmdk`;

adapterKit(ova, {
  images: [archive('ustar', 'machine-disk1.vmdk'), archive('gnu', LONG_NAME), archive('pax', LONG_NAME)],
});

const grain = (seed: number): Uint8Array => {
  const content = new Uint8Array(4096);
  pattern(content, 0, seed);
  return content;
};
const vmdkOf = (seed: number, keysOf = {}): Uint8Array =>
  hosted({
    grains: [grain(seed), null],
    grainSize: 4096,
    stream: true,
    text: descriptor(['RW 16 SPARSE "x"'], keysOf),
  });

describe('archives', () => {
  let folder = '';
  beforeAll(() => {
    folder = scratch();
  });
  afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

  async function packed(members: Readonly<Record<string, Uint8Array | string>>): Promise<Uint8Array> {
    const at = fs.mkdtempSync(path.join(folder, 'tar-'));
    for (const [name, content] of Object.entries(members)) {
      fs.writeFileSync(path.join(at, name), content);
      fs.utimesSync(path.join(at, name), 1_600_000_000, 1_600_000_000);
    }
    const { code, err } = await run('tar', [
      '--format=ustar',
      '-cf',
      path.join(folder, 'x.ova'),
      '-C',
      at,
      ...Object.keys(members),
    ]);
    if (code !== 0) throw new Error(err);
    return new Uint8Array(fs.readFileSync(path.join(folder, 'x.ova')));
  }
  const opened = async (members: Readonly<Record<string, Uint8Array | string>>) => {
    const image = await ova.open('x.ova', memoryStore({ 'x.ova': await packed(members) }), keys);
    return { image, point: image.points[0]! };
  };
  const noTar = missing(['tar']) !== null;

  test.skipIf(noTar)('one point with all disks, in the order of the descriptor', async () => {
    const ovf = envelope(
      file('b', 'two.vmdk') + file('a', 'one.vmdk') + file('iso', 'cd.iso'),
      diskOf('a', '8192') + diskOf(null, '1024', 'ovf:capacityAllocationUnits="MegaBytes"') + diskOf('b', '8193'),
    );
    const members = { 'm.ovf': ovf, 'two.vmdk': vmdkOf(2), 'one.vmdk': vmdkOf(1), 'cd.iso': 'x' };
    const { image, point } = await opened(members);
    expect(point).toMatchObject({ set: 'Web & mail', type: 'full', parent: null, problem: null });
    expect(point.time?.toISOString()).toBe('2020-09-13T12:26:40.000Z');
    expect(point.disks.map(({ name, size }) => [name, size])).toEqual([
      ['disk0', 8192],
      ['disk1', 2 ** 30],
      ['disk2', 8192],
    ]);
    expect(image.warnings).toEqual([expect.stringContaining('disk2 has 8192 bytes, the OVF descriptor says 8193')]);
    const store = localStore(folder);
    for (const [disk, seed] of [
      [0, 1],
      [2, 2],
    ] as const) {
      await using stack = await openStack({ adapter: ova, store, name: 'x.ova', keys, disk });
      const got = new Uint8Array(8192);
      await stack.read(got, 0);
      expect(Buffer.compare(got, Buffer.concat([grain(seed), new Uint8Array(4096)]))).toBe(0);
    }
  });

  test.skipIf(noTar).each([
    ['a missing file', file('a', 'gone.vmdk'), diskOf('a', '8192'), 'broken-chain', '"gone.vmdk" is missing'],
    ['a file that is not listed', '', diskOf('a', '8192'), 'unsupported', 'not listed'],
    [
      'a compressed file',
      file('a', 'one.vmdk', 'ovf:compression="gzip"'),
      diskOf('a', '8192'),
      'unsupported',
      'compressed (gzip)',
    ],
    [
      'a file in chunks',
      file('a', 'one.vmdk', 'ovf:chunkSize="1000"'),
      diskOf('a', '8192'),
      'unsupported',
      'cut into chunks',
    ],
    [
      'another format',
      file('a', 'one.vmdk'),
      diskOf('a', '8192', 'ovf:format="urn:vhd"'),
      'unsupported',
      'urn:vhd is no VMDK',
    ],
    [
      'a disk over another one',
      file('a', 'one.vmdk'),
      diskOf('a', '8192', 'ovf:parentRef="x"'),
      'unsupported',
      'over another disk',
    ],
    ['an empty disk of no size', '', diskOf(null, '{size}'), 'corrupt', 'size of the empty disk'],
    ['no disks', '', '', 'unsupported', 'lists no disks'],
    ['a differencing disk', file('a', 'two.vmdk'), diskOf('a', '8192'), 'broken-chain', 'is not named'],
    ['a disk over a named one', file('a', 'three.vmdk'), diskOf('a', '8192'), 'unsupported', 'cannot lie over another'],
    ['what is no VMDK', file('a', 'm.ovf'), diskOf('a', '8192'), 'not-this-format', 'not a sparse extent'],
  ])('%s is a problem of the point', async (_title, files, disks, fault, message) => {
    const members = {
      'm.ovf': envelope(files, disks),
      'one.vmdk': vmdkOf(1),
      'two.vmdk': vmdkOf(2, { parentCID: '77' }),
      'three.vmdk': vmdkOf(3, { parentCID: '77', parentFileNameHint: '"base.vmdk"' }),
    };
    const { point } = await opened(members);
    expect(point.problem).toMatchObject({ fault, message: expect.stringContaining(message) });
    expect(point.disks.every(disk => disk.layer === null)).toBe(true);
  });

  test.skipIf(noTar)('a manifest is checked, and a changed byte is found', async () => {
    const content = { 'm.ovf': envelope(file('a', 'one.vmdk'), diskOf('a', '8192')), 'one.vmdk': vmdkOf(1) };
    const line = (algorithm: string, name: keyof typeof content): string =>
      `${algorithm.toUpperCase()}(${name})= ${createHash(algorithm).update(content[name]).digest('hex')}\n`;
    const whole = await packed({ ...content, 'm.mf': line('sha1', 'm.ovf') + line('sha256', 'one.vmdk') });
    const verified = async (bytes: Uint8Array) => {
      const found: Problem[] = [];
      await using image = await ova.open('x.ova', memoryStore({ 'x.ova': bytes }), keys);
      const signal = new AbortController().signal;
      const { checked } = await image.verify!({ level: 1, signal, progress() {}, found: each => found.push(each) });
      return { found, checked };
    };
    expect(await verified(whole)).toEqual({ found: [], checked: 2 });
    const damaged = whole.slice();
    const at = Buffer.from(damaged).indexOf('KDMV') + 200;
    damaged[at] = 1;
    expect((await verified(damaged)).found).toMatchObject([
      { fault: 'corrupt', message: expect.stringContaining('one.vmdk is not') },
    ]);
  });

  test.skipIf(noTar)('sizes of more than 8 GiB, as GNU tar writes them, are understood', async () => {
    const whole = await packed({ 'm.ovf': envelope('', ''), 'one.vmdk': vmdkOf(1) });
    const at = Buffer.from(whole).indexOf('one.vmdk');
    whole.set([0x80, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0], at + 124);
    whole.fill(0x20, at + 148, at + 156);
    const sum = whole.subarray(at, at + 512).reduce((total, byte) => total + byte, 0);
    whole.set(Buffer.from(`${sum.toString(8).padStart(6, '0')}\0 `), at + 148);
    await expect(ova.open('x.ova', memoryStore({ 'x.ova': whole }), keys)).rejects.toMatchObject({
      fault: 'corrupt',
      message: expect.stringContaining(`needs ${3 * 2 ** 32} bytes`),
    });
  });

  test.skipIf(noTar)('other archives are not claimed', async () => {
    const other = await packed({ 'ova.xml': '<value/>', 'm.ovf': '' });
    expect(ova.probe(other.slice(0, 65_536), other, 'x.ova')).toBe('no');
    const late = await packed({ 'one.vmdk': '', 'm.ovf': '' });
    expect(ova.probe(late, late, 'x.ova')).toBe('maybe');
    expect(ova.probe(late, late, 'x.tar')).toBe('no');
    await expect(ova.open('x.ova', memoryStore({ 'x.ova': other.slice(0, 1024) }), keys)).rejects.toMatchObject({
      fault: 'not-this-format',
    });
  });
});

describe('OVF descriptors', () => {
  test.each([
    ['', 'no element'],
    ['<a>', '<a> is not closed'],
    ['<a></b>', '</b> where <a> is open'],
    ['<a', 'neither an element nor text'],
    ['<a b="1></a>', 'neither an element nor text'],
    ['<a><!-- ', '<!-- without -->'],
    ['<a>'.repeat(300), 'deeper than 64 elements'],
    ['<NotAnEnvelope/>', 'starts with <NotAnEnvelope>'],
  ])('%j is refused', (text, message) => {
    expect(() => parseOvf(text, 'm.ovf')).toThrowError(
      expect.objectContaining({ fault: 'corrupt', message: expect.stringContaining(message) }),
    );
  });

  test.each([
    ['comments', '<!-- '.repeat(2_000_000)],
    ['attributes', `<a ${'b '.repeat(4_000_000)}`],
    ['texts', `<a>${'&'.repeat(4_000_000)}</a>`],
    ['spaces', `<a${' '.repeat(4_000_000)}`],
    ['quotes', `<a ${'b="'.repeat(2_000_000)}`],
  ])('made to be slow by %s: is not', (_title, text) => {
    const started = performance.now();
    expect(() => parseOvf(text, 'm.ovf')).toThrowError(expect.objectContaining({ fault: 'corrupt' }));
    expect(performance.now() - started).toBeLessThan(3000);
  });

  test('units of capacity', () => {
    for (const [written, bytes] of [
      ['byte * 2^30', 3 * 2 ** 30],
      ['byte * 10^9', 3e9],
      ['GigaBytes', 3 * 2 ** 30],
      ['byte', 3],
      ['furlong', null],
    ] as const) {
      const { disks } = parseOvf(envelope('', diskOf(null, '3', `ovf:capacityAllocationUnits="${written}"`)), 'm.ovf');
      expect(disks[0]!.capacity).toBe(bytes);
    }
  });
});

/**
 * Images in which two blocks of the guest lie in one place of the file, or a block lies in the metadata. They are read as
 * other programs read them, or refused where the format forbids it; writing never goes through them.
 */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { memoryStore } from '../../src/stores/memory.ts';
import { pattern } from '../../test/kit/disks.ts';
import { missing, qemuImg } from '../../test/kit/oracles.ts';
import { scratch } from '../../test/kit/samples.ts';
import type { Disk, Problem, WritableDisk } from '../base/contracts.ts';
import { openOverlay } from '../overlay/overlay.ts';
import { adapters } from '../registry.ts';
import { openDiskFile } from './file.ts';

const KEYS = { secrets: async () => [] };
const KIB = 1024;
const MIB = KIB * KIB;
const SIZE = 8 * MIB;
const u64be = (bytes: Buffer, at: number): number => Number(bytes.readBigUInt64BE(at) % 2n ** 56n);
const u64le = (bytes: Buffer, at: number): number => Number(bytes.readBigUInt64LE(at));

interface Kind {
  readonly format: string;
  readonly flags: readonly string[];
  readonly block: number;
  /** Offset of the table's entries, and the length of one. */
  table(image: Buffer): number;
  readonly entry: 4 | 8;
  /** Entry that leads to the file's own metadata; absent where entries count from behind them. */
  readonly metadata?: (image: Buffer) => bigint;
  readonly little: boolean;
  /** What refuses a block in the metadata; null: it is read like any other place. */
  readonly refuses: RegExp | null;
}

const vhdxTable = (image: Buffer): number => {
  const guid = Buffer.from('6677c22d23f600429d64115e9bfd4a08', 'hex');
  return u64le(image, image.indexOf(guid, 192 * KIB) + 16);
};
const KINDS: readonly Kind[] = [
  {
    format: 'qcow2',
    flags: ['-o', 'cluster_size=64k'],
    block: 64 * KIB,
    table: image => u64be(image, u64be(image, 40)),
    entry: 8,
    metadata: image => image.readBigUInt64BE(40),
    little: false,
    refuses: null,
  },
  {
    format: 'qed',
    flags: [],
    block: 64 * KIB,
    table: image => u64le(image, u64le(image, 40)),
    entry: 8,
    metadata: image => image.readBigUInt64LE(40),
    little: true,
    refuses: null,
  },
  {
    format: 'vpc',
    flags: ['-o', 'force_size=on'],
    block: 2 * MIB,
    table: image => Number(image.readBigUInt64BE(512 + 16)),
    entry: 4,
    metadata: () => 1n,
    little: false,
    refuses: /metadata/,
  },
  {
    format: 'vhdx',
    flags: ['-o', 'block_size=1M'],
    block: MIB,
    table: vhdxTable,
    entry: 8,
    metadata: image => BigInt(vhdxTable(image)) + 6n,
    little: true,
    refuses: /metadata/,
  },
  {
    format: 'vdi',
    flags: [],
    block: MIB,
    table: image => image.readUInt32LE(340),
    entry: 4,
    little: true,
    refuses: null,
  },
  {
    format: 'vmdk',
    flags: [],
    block: 64 * KIB,
    table: image => image.readUInt32LE(u64le(image, 56) * 512) * 512,
    entry: 4,
    metadata: image => image.readBigUInt64LE(56),
    little: true,
    refuses: null,
  },
  {
    format: 'parallels',
    flags: [],
    block: MIB,
    table: () => 64,
    entry: 4,
    little: true,
    refuses: null,
  },
];

function setEntry({ table, entry, little }: Kind, image: Buffer, index: number, value: bigint): void {
  const at = table(image) + index * entry;
  if (entry === 4) little ? image.writeUInt32LE(Number(value), at) : image.writeUInt32BE(Number(value), at);
  else little ? image.writeBigUInt64LE(value, at) : image.writeBigUInt64BE(value, at);
}

function entryOf({ table, entry, little }: Kind, image: Buffer, index: number): bigint {
  const at = table(image) + index * entry;
  if (entry === 4) return BigInt(little ? image.readUInt32LE(at) : image.readUInt32BE(at));
  return little ? image.readBigUInt64LE(at) : image.readBigUInt64BE(at);
}

async function contentOf(disk: Disk): Promise<Uint8Array> {
  const content = new Uint8Array(disk.size);
  await disk.read(content, 0);
  return content;
}

describe.each(KINDS)('$format', kind => {
  const { format, flags, block, refuses } = kind;
  const skip = missing(['qemu-img']) !== null;
  const name = `a.${format}`;
  let folder = '';
  let image: Buffer;
  const raw = new Uint8Array(SIZE);
  pattern(raw, 0, 5);

  beforeAll(async () => {
    folder = scratch();
    if (skip) return;
    fs.writeFileSync(path.join(folder, 'disk.raw'), raw);
    await qemuImg.convert(path.join(folder, 'disk.raw'), 'raw', path.join(folder, name), format, flags);
    image = fs.readFileSync(path.join(folder, name));
    setEntry(kind, image, 2, entryOf(kind, image, 1));
    fs.writeFileSync(path.join(folder, name), image);
  });
  afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

  test.skipIf(skip)('two blocks in one place are read as they are, and a write to one leaves the other', async () => {
    const expected = raw.slice();
    expected.copyWithin(2 * block, block, 2 * block);
    const store = memoryStore({ [name]: image });
    await using opened = await openDiskFile(name, store, adapters, KEYS);
    expect(Buffer.compare(await contentOf(opened.disk), expected)).toBe(0);
    await qemuImg.convert(path.join(folder, name), format, path.join(folder, 'qemu.raw'), 'raw');
    expect(Buffer.compare(fs.readFileSync(path.join(folder, 'qemu.raw')), expected)).toBe(0);

    const overlay = await openOverlay(fs.mkdtempSync(path.join(folder, 'clone-')), opened.disk, { create: true });
    const disk: WritableDisk = overlay;
    await disk.write(new Uint8Array(4096).fill(0xaa), block + 512);
    await disk.zero(2 * block, 4096);
    expected.fill(0xaa, block + 512, block + 512 + 4096);
    expected.fill(0, 2 * block, 2 * block + 4096);
    expect(Buffer.compare(await contentOf(disk), expected)).toBe(0);
    await overlay.close();
    expect(Buffer.compare(store.bytes(name), image)).toBe(0);
  });

  const { metadata } = kind;
  if (metadata === undefined) return;
  const damaged = (): Buffer => {
    const bad = Buffer.from(image);
    setEntry(kind, bad, 3, metadata(bad));
    return bad;
  };

  test.skipIf(skip)('a block in the metadata leaves the other blocks alone', async () => {
    await using opened = await openDiskFile(name, memoryStore({ [name]: damaged() }), adapters, KEYS);
    const into = new Uint8Array(512);
    const read = async (): Promise<void> => opened.disk.read(into, 3 * block);
    if (refuses === null) await read();
    else await expect(read()).rejects.toMatchObject({ fault: 'corrupt', message: expect.stringMatching(refuses) });
    await opened.disk.read(into, block);
    expect(Buffer.compare(into, raw.subarray(block, block + 512))).toBe(0);
  });

  const adapter = adapters.find(each => each.name === format);
  if (adapter?.name !== 'qcow2' && adapter?.name !== 'vhdx') return;
  test.skipIf(skip)('verify names both', async () => {
    await using opened = await adapter.open(name, memoryStore({ [name]: damaged() }), KEYS);
    const found: string[] = [];
    const told = ({ message }: Problem): void => void found.push(message);
    await opened.verify!({ level: 2, found: told, progress() {}, signal: new AbortController().signal });
    expect(found.join('\n')).toMatch(/metadata/);
    expect(found.length).toBeGreaterThanOrEqual(2);
  });
});

/** Small sound images of each format, to be damaged. Most are made by QEMU. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { bml } from '../../formats/bml/index.ts';
import type { Keyring } from '../../src/base/contracts.ts';
import { memoryStore } from '../../src/stores/memory.ts';

export interface Seed {
  readonly name: string;
  readonly image: Uint8Array;
}

const SIZE = 3 * 2 ** 20;
export const SECRET = new TextEncoder().encode('fuzz');
export const KEYS: Keyring = { secrets: async () => [SECRET] };

/** Variants by format: the flags of `qemu-img convert`. */
const QEMU: Readonly<Record<string, readonly (readonly string[])[]>> = {
  qcow2: [
    ['-O', 'qcow2', '-o', 'cluster_size=4k'],
    ['-O', 'qcow2', '-c'],
    ['-O', 'qcow2', '-o', 'compat=0.10'],
    ['-O', 'qcow2', '-o', 'extended_l2=on,cluster_size=16k'],
  ],
  vhd: [
    ['-O', 'vpc', '-o', 'force_size=on'],
    ['-O', 'vpc', '-o', 'subformat=fixed,force_size=on'],
  ],
  vhdx: [['-O', 'vhdx', '-o', 'block_size=1M']],
  vmdk: [
    ['-O', 'vmdk'],
    ['-O', 'vmdk', '-o', 'subformat=streamOptimized'],
  ],
  vdi: [['-O', 'vdi']],
  parallels: [['-O', 'parallels']],
  qcow1: [['-O', 'qcow']],
  qed: [['-O', 'qed']],
};

export const FORMATS: readonly string[] = ['bml', ...Object.keys(QEMU)];

function content(): Uint8Array {
  const disk = new Uint8Array(SIZE);
  for (let i = 0; i < 200_000; i++) disk[i] = (i * 7 + (i >> 8)) & 255;
  disk.fill(0x42, 2_000_000, 2_100_000);
  return disk;
}

async function bmlSeeds(): Promise<readonly Seed[]> {
  const disk = content();
  const seeds: Seed[] = [];
  for (const secret of [null, SECRET]) {
    const store = memoryStore();
    const writer = await bml.create!('a.bml', store, {
      set: 'fuzz',
      time: new Date(0),
      type: 'full',
      disks: [{ name: 'disk0', size: SIZE, sectorSize: 512 }],
      blockSize: 65536,
      parent: null,
      secret,
      compression: 1,
    });
    for (let block = 0; block * 65536 < SIZE; block++)
      await writer.write(0, block, disk.subarray(block * 65536, (block + 1) * 65536));
    await writer.commit();
    await writer[Symbol.asyncDispose]();
    seeds.push({ name: 'a.bml', image: store.bytes('a.bml') });
  }
  return seeds;
}

export async function seedsOf(format: string): Promise<readonly Seed[]> {
  if (format === 'bml') return bmlSeeds();
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-fuzz-'));
  try {
    fs.writeFileSync(path.join(folder, 'disk.raw'), content());
    return QEMU[format]!.map((flags, i) => {
      const name = `seed-${i}.${format}`;
      execFileSync('qemu-img', ['convert', '-f', 'raw', ...flags, 'disk.raw', name], { cwd: folder });
      return { name, image: new Uint8Array(fs.readFileSync(path.join(folder, name))) };
    });
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}

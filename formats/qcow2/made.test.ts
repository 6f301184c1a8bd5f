/** Images made by QEMU on the spot, compared with what QEMU itself reads from them. */
import fs from 'node:fs';
import path from 'node:path';
import { adapterKit, type MadeImage } from '../../test/kit/adapter-kit.ts';
import { qemuImg, qemuIo, run } from '../../test/kit/oracles.ts';
import { type Random, random } from '../../test/kit/random.ts';
import { raw } from '../raw/index.ts';
import { qcow2 } from './index.ts';

const MiB = 1_048_576;

/** Noise, repetition and zeros in stretches of any length, so that compressed and plain clusters both occur. */
function writeNoise(file: string, size: number, seed: number): void {
  const { below, pick } = random(seed);
  const content = new Uint8Array(size);
  for (let at = 0; at < size; ) {
    const length = Math.min(size - at, 1 + below(pick([700, 9000, 200_000])));
    const kind = pick(['noise', 'same', 'zero', 'zero']);
    if (kind === 'same') content.fill(1 + below(255), at, at + length);
    if (kind === 'noise') for (let i = at; i < at + length; i++) content[i] = below(256);
    at += length;
  }
  fs.writeFileSync(file, content);
}

/** Writes, zeros and discards at any sector. */
function scribble({ below, pick }: Random, size: number, commands: number, kinds: readonly string[]): string[] {
  const out: string[] = [];
  for (let i = 0; i < commands; i++) {
    const at = below(Math.floor(size / 512)) * 512;
    const length = Math.min(size - at, 512 * (1 + below(pick([2, 100, 3000]))));
    out.push(`${pick(kinds).replace('P', `P ${1 + below(255)}`)} ${at} ${length}`);
  }
  return out;
}

const KINDS = ['write -P', 'write -P', 'write -P', 'write -z', 'write -z -u', 'discard'];

interface Chain {
  readonly title: string;
  /** Guest sizes, base first; every layer but the first has the one before as backing file. */
  readonly sizes: readonly number[];
  readonly options: string;
  readonly convert?: readonly string[];
  readonly kinds?: readonly string[];
  readonly base?: 'raw' | 'qcow2';
  readonly snapshot?: boolean;
}

const make = (chain: Chain, seed: number): MadeImage => ({
  title: chain.title,
  needs: ['qemu-img', 'qemu-io'],
  skip: [{ test: 'probe', reason: 'the samples are enough for this' }],
  async make(folder) {
    const noise = path.join(folder, 'noise.raw');
    const order = random(seed);
    const kinds = chain.kinds ?? KINDS;
    let below = '';
    for (const [i, size] of chain.sizes.entries()) {
      const format = i === 0 ? (chain.base ?? 'qcow2') : 'qcow2';
      const name = `layer${i}.${format}`;
      const file = path.join(folder, name);
      const options = format === 'raw' ? [] : ['-o', chain.options];
      if (i === 0) {
        writeNoise(noise, size, seed);
        await qemuImg.convert(noise, 'raw', file, format, [...options, ...(chain.convert ?? [])]);
        fs.rmSync(noise);
      } else {
        const lower = path.extname(below).slice(1);
        await qemuImg.create(file, 'qcow2', size, [...options, '-b', below, '-F', lower]);
      }
      if (chain.snapshot) await run('qemu-img', ['snapshot', '-c', `s${i}`, file]);
      if (kinds.length > 0) await qemuIo(file, format, scribble(order, size, 40, kinds));
      below = name;
    }
    await qemuImg.convert(path.join(folder, below), path.extname(below).slice(1), path.join(folder, 'twin'), 'raw');
    return { file: below, raw: 'twin' };
  },
});

const ODD = 10 * MiB + 1536;

const chains: readonly Chain[] = [
  { title: 'three layers, version 2', sizes: [ODD, ODD, ODD], options: 'compat=v2', kinds: ['write -P', 'write -P'] },
  { title: 'three layers, version 3', sizes: [ODD, ODD, ODD], options: 'compat=v3' },
  { title: 'backing file smaller', sizes: [3 * MiB + 512, 8 * MiB], options: 'compat=v3' },
  { title: 'backing file larger', sizes: [8 * MiB, 3 * MiB + 512], options: 'compat=v3' },
  { title: 'over a raw base', sizes: [ODD, ODD], options: 'compat=v3', base: 'raw' },
  { title: 'clusters of 512 bytes', sizes: [2 * MiB + 512, 2 * MiB + 512], options: 'cluster_size=512' },
  { title: 'clusters of 4 KiB, zlib', sizes: [ODD, ODD], options: 'cluster_size=4k', convert: ['-c'] },
  { title: 'clusters of 2 MiB', sizes: [33 * MiB + 512, 33 * MiB + 512], options: 'cluster_size=2M' },
  { title: 'zlib', sizes: [ODD, ODD], options: 'compat=v3', convert: ['-c'] },
  { title: 'zlib, version 2', sizes: [ODD], options: 'compat=v2', convert: ['-c'], kinds: [] },
  { title: 'zlib, clusters of 512 bytes', sizes: [MiB], options: 'cluster_size=512', convert: ['-c'], kinds: [] },
  { title: 'zstd', sizes: [ODD, ODD], options: 'compression_type=zstd', convert: ['-c'] },
  { title: 'zstd, 2 MiB', sizes: [ODD], options: 'compression_type=zstd,cluster_size=2M', convert: ['-c'], kinds: [] },
  { title: 'extended L2', sizes: [ODD, ODD, ODD], options: 'extended_l2=on' },
  { title: 'extended L2, zlib', sizes: [ODD, ODD], options: 'extended_l2=on,cluster_size=128k', convert: ['-c'] },
  { title: 'preallocated', sizes: [ODD], options: 'preallocation=metadata' },
  { title: 'with internal snapshots', sizes: [ODD, ODD], options: 'compat=v3', snapshot: true },
  { title: 'refcounts of 1 bit', sizes: [ODD], options: 'refcount_bits=1' },
];

adapterKit(qcow2, { others: [raw], images: chains.map((chain, i) => make(chain, 100 + i)) });

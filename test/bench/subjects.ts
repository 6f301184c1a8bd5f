/** The disks that are served: the same content, at rest in different ways. */
import fs from 'node:fs';
import path from 'node:path';
import { openLayer, writeLayer } from '../../formats/bml/kit.ts';
import { localWritableStore } from '../../src/stores/local.ts';
import { random } from '../kit/random.ts';
import { FEW_READS, FIRST_WRITES, type Job, READS, WRITES } from './jobs.ts';
import { type Subject, tool } from './peers.ts';

const MIB = 2 ** 20;
const SIZE = 512 * MIB;
/** Of chains whose depth is compared: more than the default cache, so that every round decodes. */
const SMALL = 192 * MIB;
const BLOCK = 65536;
/** A change between two layers: 16 runs of 256 KiB. */
const CHANGES = 16;
const RUN = 4 * BLOCK;

/** Half of each 64 KiB can be compressed, as on an ordinary disk. */
function makeDisk(file: string): void {
  const { below } = random(11);
  const part = new Uint8Array(MIB);
  const view = new DataView(part.buffer);
  const fd = fs.openSync(file, 'w');
  for (let at = 0; at < SIZE; at += MIB) {
    for (let i = 0; i < MIB; i += BLOCK) for (let j = 0; j < BLOCK / 2; j += 4) view.setUint32(i + j, below(2 ** 32));
    fs.writeSync(fd, part, 0, MIB, at);
  }
  fs.closeSync(fd);
}

const reading = { keyFile: null, plain: null, writable: false, jobs: READS, prepared: null } as const;

function rawSubject(folder: string, disk: string): Subject {
  const repo = fs.mkdtempSync(path.join(folder, 'raw-'));
  const file = path.join(repo, 'disk.raw');
  fs.copyFileSync(disk, file);
  return { ...reading, name: 'A raw layer', repo, point: 'disk@disk', image: { file, format: 'raw' }, plain: file };
}

function vhdSubject(folder: string, disk: string): Subject {
  const repo = fs.mkdtempSync(path.join(folder, 'vhd-'));
  const file = path.join(repo, 'disk.vhd');
  tool('qemu-img', 'convert', '-f', 'raw', '-O', 'vpc', '-o', 'force_size=on', disk, file);
  return { ...reading, name: 'A dynamic VHD', repo, point: 'disk@latest', image: { file, format: 'vpc' } };
}

/**
 * Every layer is written in pieces of 256 KiB, the first one as well: the page cache holds a file in the pieces in which it was
 * written, and reads of one that was written all at once are a quarter faster whatever lies above it.
 */
function qcow2Subject(folder: string, disk: string, depth: number, size: number, jobs: readonly Job[]): Subject {
  const repo = fs.mkdtempSync(path.join(folder, 'qcow2-'));
  const layer = (i: number): string => path.join(repo, `layer-${i}.qcow2`);
  const { below } = random(13);
  const base = Array.from({ length: size / RUN }, (_, i) => `write -q -s ${disk} ${i * RUN} ${RUN}`);
  for (let i = 0; i < depth; i++) {
    const of = i === 0 ? [] : ['-F', 'qcow2', '-b', path.basename(layer(i - 1))];
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', ...of, layer(i), String(size));
    const change = (): string => `write -q -P ${(i % 255) + 1} ${below(size / RUN) * RUN} ${RUN}`;
    const writes = i === 0 ? base : Array.from({ length: CHANGES }, change);
    tool('qemu-io', '-f', 'qcow2', ...writes.flatMap(write => ['-c', write]), layer(i));
  }
  return {
    ...reading,
    name: `A chain of ${depth} QCOW2 ${depth === 1 ? 'layer' : 'layers'}`,
    repo,
    point: `layer-0@layer-${depth - 1}`,
    image: { file: layer(depth - 1), format: 'qcow2' },
    plain: size === SIZE ? disk : null,
    jobs,
  };
}

const SECRET = new TextEncoder().encode('a key for the benchmark');

/** Compressed with zstd and encrypted. */
async function bmlSubject(
  folder: string,
  disk: string,
  { depth, size, jobs, prepared }: { depth: number; size: number; jobs: readonly Job[]; prepared: Subject['prepared'] },
): Promise<Subject> {
  const repo = fs.mkdtempSync(path.join(folder, 'bml-'));
  const keyFile = path.join(repo, '..', `${path.basename(repo)}.key`);
  fs.writeFileSync(keyFile, SECRET, { mode: 0o600 });
  const store = localWritableStore(repo);
  const { below } = random(12);
  const fd = fs.openSync(disk, 'r');
  const block = new Uint8Array(BLOCK);
  const name = (i: number): string => `bench-${String(i).padStart(3, '0')}.bml`;
  function* base() {
    for (let n = 0; n < size / BLOCK; n++) {
      fs.readSync(fd, block, 0, BLOCK, n * BLOCK);
      yield [0, n, block] as const;
    }
  }
  function* changes(i: number) {
    for (let n = 0; n < CHANGES; n++) {
      const from = below(size / RUN) * (RUN / BLOCK);
      for (let k = 0; k < RUN / BLOCK; k++) yield [0, from + k, block.fill((i + k) & 255)] as const;
    }
  }
  for (let i = 0; i < depth; i++) {
    await using parent = i === 0 ? null : await openLayer(store, name(i - 1), SECRET);
    const layer = { size, blockSize: BLOCK, parent, secret: SECRET, compression: 3 };
    await writeLayer(store, name(i), layer, i === 0 ? base() : changes(i));
  }
  fs.closeSync(fd);
  return {
    ...reading,
    name: `An encrypted .bml chain of ${depth} ${depth === 1 ? 'layer' : 'layers'}, ${prepared === 'warm' ? 'decoded blocks in memory' : 'cold'}`,
    repo,
    point: 'machine@latest',
    keyFile,
    image: null,
    plain: size === SIZE ? disk : null,
    jobs,
    prepared,
  };
}

function cloneSubject(folder: string, disk: string, full: boolean): Subject {
  const raw = rawSubject(folder, disk);
  const twin = path.join(raw.repo, '..', `${path.basename(raw.repo)}.twin`);
  fs.copyFileSync(disk, twin);
  return {
    ...raw,
    plain: twin,
    writable: true,
    name: full ? 'A clone over a raw layer, its overlay full' : 'A clone over a raw layer, first writes',
    jobs: full ? [...READS, ...WRITES] : FIRST_WRITES,
    prepared: full ? 'full' : null,
  };
}

const deep = (depth: number) => ({ depth, size: SMALL, jobs: FEW_READS, prepared: null });

const MAKERS: Readonly<Record<string, (folder: string, disk: string) => Subject | Promise<Subject>>> = {
  raw: rawSubject,
  vhd: vhdSubject,
  chain: (folder, disk) => qcow2Subject(folder, disk, 10, SIZE, READS),
  'qcow2-1': (folder, disk) => qcow2Subject(folder, disk, 1, SMALL, FEW_READS),
  'qcow2-100': (folder, disk) => qcow2Subject(folder, disk, 100, SMALL, FEW_READS),
  bml: (folder, disk) => bmlSubject(folder, disk, { depth: 10, size: SIZE, jobs: READS, prepared: null }),
  'bml-warm': (folder, disk) => bmlSubject(folder, disk, { depth: 10, size: SIZE, jobs: READS, prepared: 'warm' }),
  'bml-1': (folder, disk) => bmlSubject(folder, disk, deep(1)),
  'bml-100': (folder, disk) => bmlSubject(folder, disk, deep(100)),
  first: (folder, disk) => cloneSubject(folder, disk, false),
  clone: (folder, disk) => cloneSubject(folder, disk, true),
};

export const SUBJECTS: readonly string[] = Object.keys(MAKERS);

export async function* makeSubjects(
  folder: string,
  wanted: ReadonlySet<string>,
): AsyncGenerator<{ readonly key: string; readonly subject: Subject }> {
  const disk = path.join(folder, 'disk.raw');
  makeDisk(disk);
  for (const [key, make] of Object.entries(MAKERS))
    if (wanted.has(key)) yield { key, subject: await make(folder, disk) };
}

/** The disks that are served: the same 512 MiB of content, at rest in different ways. */
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { random } from '../kit/random.ts';
import { type Subject, tool } from './peers.ts';

const PROGRAM = fileURLToPath(new URL('../../src/cli/bootmount.js', import.meta.url));
const MIB = 2 ** 20;
const SIZE = 512 * MIB;

/** Half of each 64 KiB can be compressed, as on an ordinary disk. */
function makeDisk(file: string): void {
  const { below } = random(11);
  const part = new Uint8Array(MIB);
  const view = new DataView(part.buffer);
  const fd = fs.openSync(file, 'w');
  for (let at = 0; at < SIZE; at += MIB) {
    for (let i = 0; i < MIB; i += 65536) for (let j = 0; j < 32768; j += 4) view.setUint32(i + j, below(2 ** 32));
    fs.writeSync(fd, part, 0, MIB, at);
  }
  fs.closeSync(fd);
}

function* change(disk: string, times: number): Generator<number> {
  const { below } = random(12);
  const fd = fs.openSync(disk, 'r+');
  const part = new Uint8Array(256 * 1024);
  for (let i = 1; i <= times; i++) {
    for (let n = 0; n < 16; n++)
      fs.writeSync(fd, part.fill(below(256)), 0, part.length, below(SIZE / part.length) * part.length);
    yield i;
  }
  fs.closeSync(fd);
}

function rawSubject(folder: string, disk: string): Subject {
  const repo = path.join(folder, 'raw');
  fs.mkdirSync(repo);
  fs.copyFileSync(disk, path.join(repo, 'disk.raw'));
  return {
    name: 'A raw layer',
    repo,
    point: 'disk@disk',
    keyFile: null,
    image: { file: path.join(repo, 'disk.raw'), format: 'raw' },
    writable: false,
  };
}

function vhdSubject(folder: string, disk: string): Subject {
  const repo = path.join(folder, 'vhd');
  fs.mkdirSync(repo);
  const file = path.join(repo, 'disk.vhd');
  tool('qemu-img', 'convert', '-f', 'raw', '-O', 'vpc', '-o', 'force_size=on', disk, file);
  return {
    name: 'A dynamic VHD',
    repo,
    point: 'disk@disk',
    keyFile: null,
    image: { file, format: 'vpc' },
    writable: false,
  };
}

function chainSubject(folder: string, disk: string): Subject {
  const repo = path.join(folder, 'chain');
  fs.mkdirSync(repo);
  tool('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', disk, path.join(repo, 'layer-0.qcow2'));
  const { below } = random(13);
  for (let i = 1; i < 10; i++) {
    const file = path.join(repo, `layer-${i}.qcow2`);
    tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', `layer-${i - 1}.qcow2`, file);
    const writes = Array.from({ length: 16 }, () => [
      '-c',
      `write -q -P ${i} ${below(SIZE / 262144) * 262144} 256k`,
    ]).flat();
    tool('qemu-io', '-f', 'qcow2', ...writes, file);
  }
  const image = { file: path.join(repo, 'layer-9.qcow2'), format: 'qcow2' } as const;
  return { name: 'A chain of 10 QCOW2 layers', repo, point: 'layer-0@layer-9', keyFile: null, image, writable: false };
}

function bmlSubject(folder: string, disk: string): Subject {
  const repo = path.join(folder, 'bml');
  const keyFile = path.join(folder, 'key');
  fs.writeFileSync(keyFile, 'a key for the benchmark', { mode: 0o600 });
  const work = path.join(folder, 'work.raw');
  fs.copyFileSync(disk, work);
  const backup = (day: number): string =>
    tool(
      process.execPath,
      PROGRAM,
      'backup',
      work,
      repo,
      '--set',
      'bench',
      '--encrypt',
      '--key-file',
      keyFile,
      '--time',
      `2026-01-${10 + day}T00:00:00Z`,
    );
  backup(0);
  for (const day of change(work, 9)) backup(day);
  fs.rmSync(work);
  return {
    name: 'An encrypted .bml chain of 10 layers',
    repo,
    point: 'bench@latest',
    keyFile,
    image: null,
    writable: false,
  };
}

function cloneSubject(folder: string, disk: string): Subject {
  const raw = rawSubject(fs.mkdtempSync(path.join(folder, 'clone-')), disk);
  return { ...raw, name: 'A clone over a raw layer', writable: true };
}

const MAKERS = { raw: rawSubject, vhd: vhdSubject, chain: chainSubject, bml: bmlSubject, clone: cloneSubject } as const;

export function* makeSubjects(
  folder: string,
  wanted: ReadonlySet<string>,
): Generator<{ readonly key: string; readonly subject: Subject }> {
  const disk = path.join(folder, 'disk.raw');
  makeDisk(disk);
  for (const [key, make] of Object.entries(MAKERS)) if (wanted.has(key)) yield { key, subject: make(folder, disk) };
}

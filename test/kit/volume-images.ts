/** Images of file systems made by the tools of those file systems, without mounting and without root. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { nameOf, shownName } from '../../src/volumes/names.ts';
import { random } from './random.ts';

export const tool = (program: string, args: readonly string[], input?: string | Uint8Array): string =>
  execFileSync(program, args, {
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
    stdio: ['pipe', 'pipe', 'pipe'],
    ...(input === undefined ? {} : { input }),
    env: { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin`, LC_ALL: 'C.UTF-8' },
  });

/** Programs of these that cannot be found, as a reason to skip; empty when all are there. */
export function lacking(...programs: readonly string[]): string {
  const folders = `${process.env.PATH ?? ''}:/usr/sbin:/sbin`.split(':');
  const missing = programs.filter(program => !folders.some(folder => fs.existsSync(path.join(folder, program))));
  return missing.length === 0 ? '' : `missing: ${missing.join(' ')}`;
}

/** Does `work` while an image is mounted by this command, whose last word is the mountpoint. False: it cannot be, here. */
export function mounted(command: readonly string[], work: () => void): boolean {
  try {
    execFileSync(command[0]!, command.slice(1), { stdio: 'pipe' });
  } catch {
    return false;
  }
  try {
    work();
    return true;
  } finally {
    tool('umount', [command.at(-1)!]);
  }
}

export const scratch = (): string => fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-volumes-')));

export function noise(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  const { below } = random(seed);
  for (let i = 0; i < length; i++) bytes[i] = below(256);
  return bytes;
}

export function emptyImage(file: string, size: number): void {
  fs.writeFileSync(file, '');
  fs.truncateSync(file, size);
}

const DEEP = Array.from({ length: 25 }, (_, i) => `level-${i}`);

/** What any file system can hold: deep and large folders, long names, sparse, empty and large files. */
export function plainTree(folder: string): void {
  const deep = path.join(folder, ...DEEP);
  fs.mkdirSync(deep, { recursive: true });
  fs.writeFileSync(path.join(deep, 'end.txt'), 'the end');
  fs.mkdirSync(path.join(folder, 'many'));
  for (let i = 0; i < 400; i++) fs.writeFileSync(path.join(folder, 'many', `File ${i} of many.dat`), noise(i % 40, i));
  fs.writeFileSync(path.join(folder, 'n'.repeat(200)), 'long name');
  fs.writeFileSync(path.join(folder, 'Übergröße – файл 漢字.txt'), 'unicode');
  fs.writeFileSync(path.join(folder, 'empty'), '');
  fs.writeFileSync(path.join(folder, 'random.bin'), noise(1_200_001, 1));
  fs.writeFileSync(path.join(folder, 'text.txt'), 'the same words again and again '.repeat(20_000));
}

/** What only systems after Unix can: links, modes, names of any bytes, holes. */
export function unixTree(folder: string): void {
  plainTree(folder);
  fs.symlinkSync('random.bin', path.join(folder, 'relative'));
  fs.symlinkSync('/many', path.join(folder, 'absolute'));
  fs.symlinkSync('x'.repeat(180), path.join(folder, 'long-link'));
  fs.linkSync(path.join(folder, 'text.txt'), path.join(folder, 'hard'));
  fs.writeFileSync(path.join(folder, 'setuid'), '#!/bin/sh\n');
  fs.chmodSync(path.join(folder, 'setuid'), 0o4755);
  fs.chmodSync(path.join(folder, 'many'), 0o700);
  fs.writeFileSync(Buffer.concat([Buffer.from(path.join(folder, 'by')), Buffer.from([0xff, 0x0a, 0x1b])]), 'bytes');
  fs.writeFileSync(path.join(folder, 'looks\\x41like'), 'backslash');
  const fd = fs.openSync(path.join(folder, 'sparse'), 'w');
  for (let i = 0; i < 20; i++) fs.writeSync(fd, noise(3000, 50 + i), 0, 3000, i * 1_000_003);
  fs.ftruncateSync(fd, 30_000_000);
  fs.closeSync(fd);
}

export interface Expected {
  readonly lines: Record<string, string>;
  readonly stats: ReadonlyMap<string, fs.Stats>;
}

/** What a folder of this machine holds, in the words of `walk`. */
export function expectedOf(folder: string): Expected {
  const lines = new Map<string, string>();
  const stats = new Map<string, fs.Stats>();
  const enter = (dir: Buffer, above: string): void => {
    for (const name of fs.readdirSync(dir, { encoding: 'buffer' })) {
      const file = Buffer.concat([dir, Buffer.from('/'), name]);
      const its = `${above}${shownName(nameOf(name))}`;
      const stat = fs.lstatSync(file);
      stats.set(its, stat);
      if (stat.isDirectory()) {
        lines.set(its, 'dir');
        enter(file, `${its}/`);
      } else if (stat.isSymbolicLink()) lines.set(its, `link ${fs.readlinkSync(file)}`);
      else {
        const digest = createHash('sha256').update(fs.readFileSync(file)).digest('hex');
        lines.set(its, `file ${stat.size} ${digest}`);
      }
    }
  };
  enter(Buffer.from(folder), '');
  const sorted = [...lines].sort(([a], [b]) => (a < b ? -1 : 1));
  return { lines: Object.fromEntries(sorted), stats };
}

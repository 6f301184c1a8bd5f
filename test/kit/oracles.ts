/** Other people's software as judges. */
import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';

export interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Runs a program to its end, at most two minutes. */
export function run(program: string, args: readonly string[]): Promise<Ran> {
  return new Promise((resolve, reject) => {
    execFile(program, [...args], { timeout: 120_000, maxBuffer: 2 ** 26 }, (error, out, err) => {
      if (error !== null && typeof error.code !== 'number') reject(error);
      else resolve({ code: Number(error?.code ?? 0), out, err });
    });
  });
}

/** SHA-256 of what a program writes to its standard output; a failure of the program is an error. */
export function digestOfOutput(program: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, [...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    const hash = createHash('sha256');
    let complaint = '';
    child.stdout.on('data', (chunk: Buffer) => hash.update(chunk));
    child.stderr.on('data', (chunk: Buffer) => {
      complaint += chunk.toString();
    });
    child.on('error', reject);
    child.on('close', code =>
      code === 0 ? resolve(hash.digest('hex')) : reject(new Error(`${program} ended with ${code}: ${complaint}`)),
    );
  });
}

/** Whether a program can be run here. */
export function installed(program: string): boolean {
  return (process.env.PATH ?? '').split(':').some(folder => {
    try {
      fs.accessSync(path.join(folder, program), fs.constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** The first of them that is missing, as a reason to skip; null when all are there. */
export function missing(programs: readonly string[]): string | null {
  const absent = programs.find(program => !installed(program));
  return absent === undefined ? null : `${absent} is not installed`;
}

async function succeed(program: string, args: readonly string[]): Promise<string> {
  const { code, out, err } = await run(program, args);
  if (code !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${code}: ${err.trim()} ${out.trim()}`);
  return out;
}

export interface MapEntry {
  readonly start: number;
  readonly length: number;
  readonly data: boolean;
  readonly zero: boolean;
}

export const qemuImg = {
  create: (file: string, format: string, size: string | number, options: readonly string[] = []) =>
    succeed('qemu-img', ['create', '-q', '-f', format, ...options, file, String(size)]),
  convert: (from: string, fromFormat: string, to: string, toFormat: string, options: readonly string[] = []) =>
    succeed('qemu-img', ['convert', '-f', fromFormat, '-O', toFormat, ...options, from, to]),
  /** The guest content of both is the same. */
  compare: (a: string, aFormat: string, b: string, bFormat: string) =>
    succeed('qemu-img', ['compare', '-f', aFormat, '-F', bFormat, a, b]),
  /** Fails on any error or leak. */
  check: (file: string, format: string) => succeed('qemu-img', ['check', '-q', '-f', format, file]),
  async size(file: string, format: string): Promise<number> {
    const out = await succeed('qemu-img', ['info', '-f', format, '--output=json', file]);
    return (JSON.parse(out) as { 'virtual-size': number })['virtual-size'];
  },
  async map(file: string, format: string): Promise<readonly MapEntry[]> {
    return JSON.parse(await succeed('qemu-img', ['map', '-f', format, '--output=json', file])) as MapEntry[];
  },
};

export const qemuIo = (file: string, format: string, commands: readonly string[]): Promise<string> =>
  succeed('qemu-io', ['-f', format, ...commands.flatMap(command => ['-c', command]), file]);

/** SHA-256 of the disk that 7-Zip sees inside an image of the given type (`vhd`, `qcow`, `vmdk`, `vdi`). */
export const sevenZipDigest = (file: string, type: string): Promise<string> =>
  digestOfOutput('7zz', ['e', '-so', `-t${type}`, file]);

/** SHA-256 of a real file's content, holes included. */
export async function fileDigest(file: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of fs.createReadStream(file, { highWaterMark: 1_048_576 })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

/** Whether this machine can mount through FUSE: the reason why not, or null. */
export const fuseMissing = (): string | null => (fs.existsSync('/dev/fuse') ? missing(['umount']) : 'there is no FUSE');

/** SHA-256 of the disk that libvhdi sees in a VHD. */
export async function libvhdiDigest(file: string): Promise<string> {
  const folder = fs.mkdtempSync(`${file}.mount-`);
  await succeed('vhdimount', [file, folder]);
  try {
    return await fileDigest(path.join(folder, 'vhdi1'));
  } finally {
    await succeed('umount', [folder]);
    fs.rmdirSync(folder);
  }
}

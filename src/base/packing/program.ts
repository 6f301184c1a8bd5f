/** Decompression by programs of the system, for what neither Node nor the project has a decoder for. */
import { spawn } from 'node:child_process';
import { pipeline, Readable } from 'node:stream';
import type { ByteSource } from '../contracts.ts';
import { ImageError } from '../errors.ts';
import { findProgram } from '../files.ts';
import { partsOf } from './stream.ts';

export interface Program {
  readonly name: string;
  /** Reads standard input, writes standard output. */
  readonly args: readonly string[];
  /** The Debian package that has it. */
  readonly package: string;
}

/** By these alone: a `PATH` that others can write to chooses no program. */
const FOLDERS = ['/usr/bin', '/bin', '/usr/local/bin', '/opt/homebrew/bin'];
const TOLD_MOST = 2000;

/** The absolute path; null when it is not installed. */
export function programPath({ name }: Program): string | null {
  return findProgram(name, FOLDERS);
}

/** What the program makes of the file. Ended when nobody wants more. 'corrupt' when it says that it cannot. */
export async function* programContent(source: ByteSource, program: Program): AsyncGenerator<Uint8Array> {
  const file = programPath(program);
  if (file === null) {
    const message = `unpacking it needs the program ${program.name}, which is not installed`;
    throw new ImageError('unsupported', message, { file: source.name }, { hint: `apt-get install ${program.package}` });
  }
  const child = spawn(file, [...program.args], {
    stdio: ['pipe', 'pipe', 'pipe'],
    cwd: '/',
    env: { LC_ALL: 'C', PATH: '/usr/bin:/bin' },
  });
  let told = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    if (told.length < TOLD_MOST) told += text;
  });
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', code => resolve(code));
  });
  ended.catch(() => {});
  let unread: unknown = null;
  // A program that ends early closes its input; why, it says itself.
  pipeline(Readable.from(partsOf(source)), child.stdin, error => {
    if (error instanceof ImageError) unread = error;
  });
  try {
    for await (const part of child.stdout) yield part as Uint8Array;
    const code = await ended;
    if (unread !== null) throw unread;
    if (code === 0) return;
    const why = told.trim().split('\n').at(-1) || `${program.name} ended with ${code}`;
    throw new ImageError('corrupt', `the file cannot be decompressed: ${why.slice(0, 200)}`, { file: source.name });
  } finally {
    child.kill('SIGKILL');
  }
}

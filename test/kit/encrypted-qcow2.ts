/** QCOW2 images that are encrypted with LUKS, for tests. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { EXTENSION } from '../../formats/qcow2/header.ts';

/** Programs that `createEncrypted` and what works on its images need. */
export const ENCRYPTED_NEEDS = ['qemu-img', 'qemu-io', 'cryptsetup'];

export interface EncryptedSpec {
  /** Of `qemu-img create -o`. */
  readonly options: string;
  readonly size: number;
  readonly secret: string;
  /** Bits of the key; 512 unless told. */
  readonly keyBits?: 256 | 512;
}

/**
 * An empty encrypted image, and its secret as the file `key`. `qemu-img create` would measure the machine for ten seconds
 * to choose a cost; a header of cryptsetup, put where QEMU puts its own, costs little.
 */
export function createEncrypted(folder: string, name: string, spec: EncryptedSpec): void {
  const at = (file: string): string => path.join(folder, file);
  const { options, size, secret, keyBits = 512 } = spec;
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, at(name), String(size)]);
  fs.writeFileSync(at('key'), secret, { mode: 0o600 });
  // Eight keyslots and the first sector; cryptsetup wants room for data behind them.
  const length = keyBits * 4096;
  fs.writeFileSync(at('luks'), Buffer.alloc(length * 2));
  const format = ['luksFormat', '-q', '--type', 'luks1', '--cipher', 'aes-xts-plain64', '--key-size', String(keyBits)];
  execFileSync('cryptsetup', [...format, '--pbkdf-force-iterations', '1000', at('luks'), '--key-file', at('key')]);
  const image = fs.readFileSync(at(name));
  const cluster = 2 ** image.readUInt32BE(20);
  const start = image.readUInt32BE(100);
  const luksAt = Math.ceil(image.length / cluster) * cluster;
  const extension = Buffer.alloc(24);
  extension.writeUInt32BE(EXTENSION.luks, 0);
  extension.writeUInt32BE(16, 4);
  extension.writeBigUInt64BE(BigInt(luksAt), 8);
  extension.writeBigUInt64BE(BigInt(length), 16);
  const rest = Buffer.from(image.subarray(start, cluster - extension.length));
  image.writeUInt32BE(2, 32);
  const backingAt = Number(image.readBigUInt64BE(8));
  if (backingAt !== 0) image.writeBigUInt64BE(BigInt(backingAt + extension.length), 8);
  image.set(extension, start);
  image.set(rest, start + extension.length);
  const gap = Buffer.alloc(luksAt - image.length);
  fs.writeFileSync(at(name), Buffer.concat([image, gap, fs.readFileSync(at('luks')).subarray(0, length)]));
  fs.rmSync(at('luks'));
  qemuEncrypted(folder, 'qemu-img', ['check', '-q', '-r', 'all', '--image-opts', encryptedOptions(name)]);
}

/** How QEMU's programs are told to open it. */
export const encryptedOptions = (name: string): string => `driver=qcow2,file.filename=${name},encrypt.key-secret=s`;

/** Runs one of QEMU's programs in the folder, with the secret at hand. */
export function qemuEncrypted(folder: string, program: 'qemu-img' | 'qemu-io', args: readonly string[]): void {
  const [verb, ...rest] = args;
  const secret = ['--object', 'secret,id=s,file=key'];
  const all = program === 'qemu-io' ? [...secret, ...args] : [verb!, ...secret, ...rest];
  execFileSync(program, all, { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] });
}

export const writeEncrypted = (folder: string, name: string, commands: readonly string[]): void =>
  qemuEncrypted(folder, 'qemu-io', [
    '--image-opts',
    encryptedOptions(name),
    ...commands.flatMap(command => ['-c', command]),
  ]);

/** Installs the Debian packages that the demo needs, where that is possible. */
import fs from 'node:fs';
import { run } from './tiny-disk.ts';

const FOLDERS = [...(process.env.PATH ?? '').split(':'), '/usr/sbin', '/sbin', '/usr/bin', '/bin'];

/** A program's name, or the path of a file, and the package that has it. */
const NEEDED: readonly (readonly [what: string, from: string])[] = [
  ['qemu-system-x86_64', 'qemu-system-x86'],
  ['qemu-img', 'qemu-utils'],
  ['/usr/share/OVMF', 'ovmf'],
  ['/usr/lib/grub/i386-pc/boot.img', 'grub-pc-bin'],
  ['/usr/lib/grub/x86_64-efi/kernel.img', 'grub-efi-amd64-bin'],
  ['grub-mkimage', 'grub-common'],
  ['mcopy', 'mtools'],
  ['mkfs.fat', 'dosfstools'],
  ['mke2fs', 'e2fsprogs'],
  ['sfdisk', 'fdisk'],
  ['openssl', 'openssl'],
  ['mount', 'mount'],
];

const present = (what: string): boolean =>
  what.startsWith('/')
    ? fs.existsSync(what)
    : FOLDERS.some(folder => folder !== '' && fs.existsSync(`${folder}/${what}`));

export const missingPackages = (): readonly string[] => [
  ...new Set(NEEDED.filter(([what]) => !present(what)).map(([, from]) => from)),
];

async function apt(args: readonly string[], signal: AbortSignal): Promise<void> {
  const { code, out, told } = await run(['env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', ...args], signal);
  if (code !== 0)
    throw new Error(`apt-get ${args[0]} failed:\n${(told || out).trim().split('\n').slice(-5).join('\n')}`);
}

/** `say`: one line about what is going on. Throws a message that tells what to install where it cannot do that itself. */
export async function ensurePackages(say: (text: string) => void, signal: AbortSignal): Promise<void> {
  const missing = missingPackages();
  if (missing.length === 0) return;
  const list = missing.join(' ');
  if (process.getuid?.() !== 0) throw new Error(`these packages are missing; as root: apt-get install ${list}`);
  if (!present('apt-get'))
    throw new Error(`what these Debian packages hold is missing here, and there is no apt-get: ${list}`);
  say(`installing ${list} …`);
  await apt(['-q', 'update'], signal);
  await apt(['-q', 'install', '-y', '--no-install-recommends', ...missing], signal);
  const left = missingPackages();
  if (left.length > 0) throw new Error(`still missing after the installation: ${left.join(' ')}`);
}

/** What this machine has for mounting and booting, found out by trying where looking is not enough. */
import crypto from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { findProgram } from '../base/files.ts';
import { native } from '../base/native.ts';
import { isOrdinaryUser } from '../host/fuse/fusermount.ts';
import { probeKvm } from '../jobs/accelerator.ts';
import { findOvmf } from '../jobs/ovmf.ts';

export interface Check {
  readonly name: string;
  readonly ok: boolean;
  /** Without it nothing can be mounted. */
  readonly essential: boolean;
  /** What was found. */
  readonly detail: string;
  /** How to get it, on Debian where it is a package; null when nothing is wrong. */
  readonly get: string | null;
}

const FUSE = '/dev/fuse';
/** Linux capability(7). */
const CAP_SYS_ADMIN = 21n;
/** The first kernel that hands unanswered requests to a restarted server (FUSE_NOTIFY_RESEND). */
const RESEND_KERNEL = [6, 9] as const;

const check = (name: string, ok: boolean, detail: string, get: string, essential = false): Check => ({
  name,
  ok,
  essential,
  detail,
  get: ok ? null : get,
});

/** The program's path; null when it is nowhere in PATH, nor in the folders that hold it for root. */
function inPath(name: string): string | null {
  const folders = (process.env.PATH ?? '').split(':').map(folder => folder || '.');
  return findProgram(name, [...folders, '/usr/sbin', '/sbin', '/usr/bin', '/bin']);
}

function programCheck(names: readonly string[], title: string, get: string, essential = false): Check {
  const found = names.map(inPath);
  const missing = names.filter((_, i) => found[i] === null);
  const detail = missing.length === 0 ? found.join(', ') : `${missing.join(', ')} missing`;
  return check(title, missing.length === 0, detail, get, essential);
}

function fuseDevice(): Check {
  const name = 'fuse device';
  try {
    fs.closeSync(fs.openSync(FUSE, fs.constants.O_RDWR));
    return check(name, true, `${FUSE} can be opened`, '', true);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EACCES' || code === 'EPERM') {
      return check(name, false, `no permission for ${FUSE}`, `chmod 666 ${FUSE}, or run as root`, true);
    }
    const get = 'modprobe fuse; a container needs --device /dev/fuse --cap-add SYS_ADMIN';
    return check(name, false, `${FUSE} cannot be opened (${code})`, get, true);
  }
}

function mountRight(): Check {
  const name = 'right to mount';
  const status = fs.readFileSync('/proc/self/status', 'utf8');
  const capabilities = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)/m.exec(status)?.[1] ?? '0'}`);
  if (((capabilities >> CAP_SYS_ADMIN) & 1n) === 1n) return check(name, true, 'yes (CAP_SYS_ADMIN)', '', true);
  if (!isOrdinaryUser()) {
    const get = 'a container needs --cap-add SYS_ADMIN';
    return check(name, false, 'root without CAP_SYS_ADMIN', get, true);
  }
  const program = inPath('fusermount3');
  if (program === null)
    return check(name, false, 'no: fusermount3 is missing', 'apt-get install fuse3, or run as root', true);
  const stat = fs.statSync(program);
  if (stat.uid !== 0 || (stat.mode & 0o4000) === 0) {
    return check(name, false, `${program} is not set-uid root`, `chmod u+s ${program} (as root)`, true);
  }
  if (native() === null) {
    return check(name, false, 'the package koffi is missing', 'npm install koffi, or --transport fuse-native', true);
  }
  return check(name, true, `by ${program}`, '', true);
}

/** Only what an ordinary user may do with `--allow-other`. */
function allowOther(): readonly Check[] {
  if (!isOrdinaryUser()) return [];
  let text = '';
  try {
    text = fs.readFileSync('/etc/fuse.conf', 'utf8');
  } catch {
    // Without the file nothing is allowed.
  }
  const ok = /^\s*user_allow_other\s*$/m.test(text);
  const get = 'the line user_allow_other in /etc/fuse.conf (as root); only for --allow-other';
  return [check('--allow-other', ok, ok ? 'user_allow_other is set' : 'not for ordinary users', get)];
}

function kernel(): Check {
  const release = os.release();
  const [major = 0, minor = 0] = release.split('.').map(part => Number.parseInt(part, 10));
  const ok = major > RESEND_KERNEL[0] || (major === RESEND_KERNEL[0] && minor >= RESEND_KERNEL[1]);
  const get = 'Linux 6.9 or newer: on an older one a crash of the server ends its mounts, instead of going unnoticed';
  return check('kernel', ok, release, get);
}

async function kvm(): Promise<Check> {
  const name = 'KVM';
  const get = 'optional: guests boot without it, slowly. A CPU with virtualization, and membership in group kvm';
  if (inPath('qemu-system-x86_64') === null) return check(name, false, 'cannot be tried without QEMU', get);
  try {
    fs.closeSync(fs.openSync('/dev/kvm', fs.constants.O_RDWR));
  } catch (error) {
    return check(name, false, `/dev/kvm cannot be opened (${(error as NodeJS.ErrnoException).code})`, get);
  }
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-doctor-'));
  try {
    const works = await probeKvm(folder);
    return check(name, works, works ? 'runs code' : '/dev/kvm is there but too slow or broken: not used', get);
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

async function firmware(): Promise<Check> {
  const found = await findOvmf();
  return check('UEFI firmware', found !== null, found?.code ?? 'none found', 'apt-get install ovmf');
}

function runtime(): Check {
  const zstd = process.versions.zstd !== undefined;
  const argon2 = Reflect.has(crypto, 'argon2');
  const detail = `${process.versions.node}${zstd ? ', zstd' : ''}${argon2 ? ', argon2' : ', no argon2 (scrypt is used)'}`;
  return check('Node', zstd, detail, 'Node 24 (npm ci in a checkout brings it)');
}

export async function checks(): Promise<readonly Check[]> {
  return [
    runtime(),
    kernel(),
    fuseDevice(),
    mountRight(),
    ...allowOther(),
    programCheck(['mount', 'umount'], 'mount', 'apt-get install mount', !isOrdinaryUser()),
    programCheck(['fusermount3'], 'fusermount3', 'apt-get install fuse3', isOrdinaryUser()),
    programCheck(['prlimit', 'setpriv'], 'bounds for file systems', 'apt-get install util-linux'),
    programCheck(['chattr'], 'mountpoint guard', 'apt-get install e2fsprogs'),
    programCheck(['fallocate'], 'fallocate', 'apt-get install util-linux'),
    programCheck(['qemu-system-x86_64'], 'QEMU', 'apt-get install qemu-system-x86'),
    programCheck(['qemu-img'], 'qemu-img', 'apt-get install qemu-utils'),
    programCheck(['xz', 'bzip2', 'lzip'], 'unpacking', 'optional, for Clonezilla: apt-get install xz-utils bzip2 lzip'),
    await kvm(),
    await firmware(),
    programCheck(
      ['grub-mkstandalone', 'grub-mkimage'],
      'GRUB tools (demo)',
      'apt-get install grub-common grub-pc-bin grub-efi-amd64-bin',
    ),
  ];
}

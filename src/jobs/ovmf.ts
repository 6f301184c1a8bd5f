/** Where distributions keep UEFI firmware for QEMU (OVMF, without Secure Boot). */
import { ImageError } from '../base/errors.ts';
import { replaceFile } from '../base/files.ts';
import { openFile } from '../base/io.ts';
import type { UefiFiles } from './qemu.ts';

const PLACES: readonly UefiFiles[] = [
  { code: '/usr/share/OVMF/OVMF_CODE_4M.fd', vars: '/usr/share/OVMF/OVMF_VARS_4M.fd' },
  { code: '/usr/share/OVMF/OVMF_CODE.fd', vars: '/usr/share/OVMF/OVMF_VARS.fd' },
  { code: '/usr/share/edk2/ovmf/OVMF_CODE.fd', vars: '/usr/share/edk2/ovmf/OVMF_VARS.fd' },
  { code: '/usr/share/edk2/x64/OVMF_CODE.4m.fd', vars: '/usr/share/edk2/x64/OVMF_VARS.4m.fd' },
  { code: '/usr/share/qemu/ovmf-x86_64-code.bin', vars: '/usr/share/qemu/ovmf-x86_64-vars.bin' },
  { code: '/usr/share/qemu/edk2-x86_64-code.fd', vars: '/usr/share/qemu/edk2-i386-vars.fd' },
];
const LARGEST = 64 * 1024 * 1024;

async function readable(path: string): Promise<boolean> {
  try {
    await using _file = await openFile(path, 'read');
    return true;
  } catch {
    return false;
  }
}

/** The installed firmware with the variables it starts from; null when there is none. */
export async function findOvmf(places = PLACES): Promise<UefiFiles | null> {
  for (const place of places) if ((await readable(place.code)) && (await readable(place.vars))) return place;
  return null;
}

/** Firmware for one machine: its variables are a copy at `vars`, since the guest changes them. Missing: 'not-found'. */
export async function privateUefi(vars: string, places = PLACES): Promise<UefiFiles> {
  const found = await findOvmf(places);
  if (found === null) {
    throw new ImageError('not-found', 'no UEFI firmware for QEMU', {}, { hint: 'apt-get install ovmf' });
  }
  await using original = await openFile(found.vars, 'read');
  if (original.size > LARGEST) throw new ImageError('corrupt', 'too big for UEFI variables', { file: found.vars });
  const content = new Uint8Array(original.size);
  await original.read(content, 0);
  await replaceFile(vars, content);
  return { code: found.code, vars };
}

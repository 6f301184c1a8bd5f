/**
 * Decides between KVM and emulation by trying. `/dev/kvm` that opens proves little: inside some virtual machines KVM
 * runs a hundred times slower than emulation, or stops in firmware code.
 */
import { spawn } from 'node:child_process';
import { replaceFile } from '../base/files.ts';
import type { Accelerator } from './qemu.ts';

const LIMIT_MS = 2000;
/** KVM is wanted for speed alone: beyond this many times the time of emulation it is not used. */
const SLOWER = 2;
/** Value that the boot sector writes; isa-debug-exit ends QEMU with twice that, plus one. */
const EXIT_VALUE = 0x10;

/** A boot sector that counts to 20 million, does 16,384 port reads (each leaves the virtual machine) and ends QEMU. */
export function probeSector(): Uint8Array {
  const sector = new Uint8Array(512);
  sector.set([
    0xfa, // cli
    ...[0x66, 0xb9, 0x00, 0x2d, 0x31, 0x01], // mov ecx, 20000000
    ...[0x66, 0x49, 0x75, 0xfc], // 1: dec ecx; jnz 1b
    ...[0xb9, 0x00, 0x40], // mov cx, 16384
    ...[0xe4, 0x80, 0xe2, 0xfc], // 2: in al, 0x80; loop 2b
    ...[0xb0, EXIT_VALUE, 0xe6, 0xf4], // mov al, value; out 0xf4, al
    ...[0xf4, 0xeb, 0xfd], // 3: hlt; jmp 3b
  ]);
  sector.set([0x55, 0xaa], 510);
  return sector;
}

/** Milliseconds until the boot sector ended QEMU; null when it did not within the limit, or in another way. */
async function timeOf(accelerator: string, sector: string, limitMs: number): Promise<number | null> {
  const started = performance.now();
  const args = [
    ...['-nodefaults', '-machine', 'pc', '-m', '16', '-display', 'none', '-no-reboot', '-accel', accelerator],
    ...['-device', 'isa-debug-exit,iobase=0xf4,iosize=1'],
    ...['-drive', `if=ide,format=raw,file=${sector.replaceAll(',', ',,')}`],
  ];
  const child = spawn('qemu-system-x86_64', args, { stdio: 'ignore' });
  const limit = setTimeout(() => child.kill('SIGKILL'), limitMs);
  const code = await new Promise<number | null>(resolve => {
    child.on('error', () => resolve(null));
    child.on('close', resolve);
  });
  clearTimeout(limit);
  return code === EXIT_VALUE * 2 + 1 ? performance.now() - started : null;
}

/** Whether KVM (or another accelerator) works here and is worth using. Takes a fraction of a second, when KVM hangs two. */
export async function probeKvm(folder: string, accelerator = 'kvm'): Promise<boolean> {
  const sector = `${folder}/kvm-probe.img`;
  await replaceFile(sector, probeSector());
  const emulated = await timeOf('tcg,thread=multi', sector, 2 * LIMIT_MS);
  const limit = emulated === null ? LIMIT_MS : Math.min(LIMIT_MS, SLOWER * emulated + 300);
  return (await timeOf(accelerator, sector, limit)) !== null;
}

/** `folder`: a private one, where the boot sector is written. */
export const chooseAccelerator = async (folder: string): Promise<Accelerator> =>
  (await probeKvm(folder)) ? 'kvm' : 'tcg,thread=multi';

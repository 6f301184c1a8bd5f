/** Making the tiny disk, booting it, and reading what it says about itself. */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Firmware } from '../src/jobs/boot-survey.ts';
import { privateUefi } from '../src/jobs/ovmf.ts';
import { type Accelerator, type QemuFormat, qemuCommand, runQemu } from '../src/jobs/qemu.ts';

const RECIPE = fileURLToPath(new URL('tiny-disk.sh', import.meta.url));
const PROGRAM = fileURLToPath(new URL('../src/cli/bootmount.js', import.meta.url));
const BOOT_MS = 120_000;

interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly told: string;
}

/** Runs a program to its end, with its output collected. */
export function run(command: readonly string[], signal?: AbortSignal): Promise<Ended> {
  const child = spawn(command[0]!, command.slice(1), {
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(signal === undefined ? {} : { signal, killSignal: 'SIGTERM' as const }),
  });
  const parts: { out: string; told: string } = { out: '', told: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    parts.out += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    parts.told += text;
  });
  return new Promise((resolve, reject) => {
    let failure: Error | null = null;
    child.on('error', error => {
      failure = error;
      // A program that never started does not close.
      if (child.pid === undefined) reject(error);
    });
    child.on('close', code => (failure === null ? resolve({ code, ...parts }) : reject(failure)));
  });
}

/** What a program printed; an error with what it said when it failed. */
export async function outputOf(command: readonly string[], signal?: AbortSignal): Promise<string> {
  const { code, out, told } = await run(command, signal);
  if (code !== 0) throw new Error(`${command.join(' ')}: exit ${code}\n${told || out}`.trimEnd());
  return out;
}

/** The command line of bootmount itself. */
export const bootmount = (...args: readonly string[]): readonly string[] => [process.execPath, PROGRAM, ...args];

export const makeTinyDisk = (path: string, mode: 'bios' | 'uefi' | 'both', signal?: AbortSignal): Promise<string> =>
  outputOf(['bash', RECIPE, path, mode], signal);

export interface Marker {
  readonly firmware: string;
  readonly read: string;
  readonly write: string;
  readonly boots: number;
  readonly point: number;
  /** As the guest printed it. */
  readonly line: string;
}

/** The line with which the guest reports; null when it never came so far. */
export function markerIn(serial: string): Marker | null {
  const found = /TINY-BOOT-OK fw=(\w+) read=(\w+) write=(\w+) boots=(\d+) point=(\d+)/.exec(serial);
  if (found === null) return null;
  const [line, firmware, read, write, boots, point] = found;
  return { firmware: firmware!, read: read!, write: write!, boots: Number(boots), point: Number(point), line };
}

export interface TinyBoot {
  readonly disk: string;
  readonly format: QemuFormat;
  readonly firmware: Firmware;
  readonly accelerator: Accelerator;
  /** A private folder for the variables of UEFI. */
  readonly scratch: string;
  readonly signal?: AbortSignal;
}

/** Boots a disk file until the guest powers off, and throws unless it read and wrote its disk right. */
export async function bootTiny(boot: TinyBoot): Promise<Marker & { readonly seconds: number }> {
  const { disk, format, firmware, accelerator, scratch, signal } = boot;
  const command = qemuCommand({
    disks: [{ path: disk, format }],
    bus: 'virtio',
    sectorSize: 512,
    accelerator,
    ...(firmware === 'uefi' ? { uefi: await privateUefi(`${scratch}/vars.fd`) } : {}),
    memory: 256,
    processors: 1,
    screen: 'none',
    network: 'none',
    localTime: false,
  });
  const serial: string[] = [];
  const { how, seconds } = await runQemu(command, {
    timeoutMs: BOOT_MS,
    onSerial: text => serial.push(text),
    ...(signal === undefined ? {} : { signal }),
  });
  signal?.throwIfAborted();
  const marker = markerIn(serial.join(''));
  if (marker === null) throw new Error(`${disk}: the guest did not report (${how}): ${serial.join('').slice(-500)}`);
  if (marker.firmware !== firmware || marker.read !== 'ok' || marker.write !== 'ok') {
    throw new Error(`${disk}: started by ${firmware}, the guest says: ${marker.line}`);
  }
  return { ...marker, seconds };
}

/** Builds the command line of QEMU for a disk file on a mount, and runs it. */
import { spawn } from 'node:child_process';
import { ImageError } from '../base/errors.ts';
import type { Firmware } from './boot-survey.ts';

/** QEMU's name of the file's format. It is always given: a fixed VHD would be taken for raw otherwise. */
export type QemuFormat = 'raw' | 'vpc' | 'vhdx' | 'qcow2' | 'vmdk' | 'vdi';
export type Bus = 'virtio' | 'sata' | 'nvme' | 'ide';
/** As `-accel` takes it. */
export type Accelerator = 'kvm' | 'tcg,thread=multi';

/** A read-only firmware image and this machine's own copy of its variables. */
export interface UefiFiles {
  readonly code: string;
  readonly vars: string;
}

export interface MachineSpec {
  /** In the order of the backup; the first one is booted. */
  readonly disks: readonly { readonly path: string; readonly format: QemuFormat }[];
  readonly bus: Bus;
  readonly sectorSize: 512 | 4096;
  /** Absent: BIOS. */
  readonly uefi?: UefiFiles;
  readonly accelerator: Accelerator;
  /** MiB. */
  readonly memory: number;
  readonly processors: number;
  /** No screen: nothing is shown, and a guest that restarts ends QEMU. A path: VNC on a socket there. 'window': QEMU opens one. */
  readonly screen: 'none' | 'window' | { readonly vncSocket: string };
  /** A backup that comes to life must not talk to the network by surprise. */
  readonly network: 'none' | 'user';
  /** The clock of the machine shows local time, as Windows expects it. */
  readonly localTime: boolean;
}

const PROGRAM = 'qemu-system-x86_64';
const SATA_PORTS = 6;
const IDE_DISKS = 4;

/** QEMU's option syntax: a comma in a value is doubled. */
const value = (text: string): string => text.replaceAll(',', ',,');

function diskDevice(spec: MachineSpec, index: number): string {
  const drive = `drive=disk${index}`;
  const first = index === 0 ? ',bootindex=1' : '';
  const sectors = spec.sectorSize === 4096 ? ',logical_block_size=4096,physical_block_size=4096' : '';
  switch (spec.bus) {
    case 'virtio':
      return `virtio-blk-pci,${drive}${first}${sectors}`;
    case 'nvme':
      return `nvme,${drive},serial=disk${index}${first}${sectors}`;
    case 'sata':
      return `ide-hd,${drive},bus=ide.${index}${first}`;
    case 'ide':
      return `ide-hd,${drive},bus=ide.${Math.floor(index / 2)},unit=${index % 2}${first}`;
  }
}

function checkBus({ bus, disks, sectorSize }: MachineSpec): void {
  const ports = bus === 'sata' ? SATA_PORTS : bus === 'ide' ? IDE_DISKS : Number.POSITIVE_INFINITY;
  if (disks.length > ports) {
    throw new ImageError('unsupported', `${disks.length} disks do not fit on ${bus}, which takes ${ports}`, {
      field: '--bus',
    });
  }
  if (sectorSize === 4096 && (bus === 'sata' || bus === 'ide')) {
    throw new ImageError(
      'unsupported',
      `a disk with 4096-byte sectors does not work on ${bus}`,
      { field: '--bus' },
      { hint: '--bus virtio or --bus nvme' },
    );
  }
}

/** Program and arguments. The serial console is QEMU's standard output. */
export function qemuCommand(spec: MachineSpec): readonly [program: string, ...args: string[]] {
  checkBus(spec);
  const args = [
    ...['-nodefaults', '-machine', spec.bus === 'ide' ? 'pc' : 'q35', '-accel', spec.accelerator],
    ...['-cpu', spec.accelerator === 'kvm' ? 'host' : 'max', '-smp', `${spec.processors}`, '-m', `${spec.memory}`],
    // A guest from a backup is a stranger: it can neither start programs nor gain rights through a fault in QEMU.
    ...['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
    ...['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console', '-vga', 'std'],
  ];
  if (spec.uefi !== undefined) {
    args.push('-drive', `if=pflash,unit=0,format=raw,readonly=on,file=${value(spec.uefi.code)}`);
    args.push('-drive', `if=pflash,unit=1,format=raw,file=${value(spec.uefi.vars)}`);
  }
  for (const [index, disk] of spec.disks.entries()) {
    // QEMU frees the clusters of a discarded range of a QCOW2 file and writes other data there: not in a view whose
    // clusters have a fixed place.
    const discard = disk.format === 'raw' ? 'unmap' : 'ignore';
    args.push('-drive', `if=none,id=disk${index},format=${disk.format},discard=${discard},file=${value(disk.path)}`);
    args.push('-device', diskDevice(spec, index));
  }
  if (spec.network === 'user') args.push('-nic', 'user,model=e1000');
  if (spec.localTime) args.push('-rtc', 'base=localtime');
  if (spec.screen === 'none') args.push('-display', 'none', '-no-reboot');
  else args.push('-device', 'qemu-xhci', '-device', 'usb-tablet');
  if (typeof spec.screen === 'object') args.push('-display', `vnc=unix:${value(spec.screen.vncSocket)}`);
  return [PROGRAM, ...args];
}

/** One line for a shell. */
export const shellLine = (command: readonly string[]): string =>
  command.map(part => (/^[\w@%+=:,./-]+$/.test(part) ? part : `'${part.replaceAll("'", "'\\''")}'`)).join(' ');

/** Which firmware a command starts: for messages. */
export const firmwareOf = (spec: MachineSpec): Firmware => (spec.uefi === undefined ? 'bios' : 'uefi');

export interface QemuRun {
  readonly signal?: AbortSignal;
  /** Ends the machine after so long; absent: as long as it likes. */
  readonly timeoutMs?: number;
  /** What the guest wrote to its serial console. */
  onSerial?(text: string): unknown;
}

export interface QemuEnd {
  /** 'off': the guest or its user ended it; 'timeout': `timeoutMs` went by; 'aborted': the signal. */
  readonly how: 'off' | 'timeout' | 'aborted';
  readonly seconds: number;
}

const MESSAGES_KEPT = 4096;
const GRACE_MS = 5000;

/**
 * Runs QEMU to its end: when this resolves or throws, the process is gone and the disks are closed. Stopping is by
 * SIGTERM, on which QEMU flushes and closes its disks, then by SIGKILL. Missing program: 'not-found'; a failure of
 * QEMU: 'io' with its own last words.
 */
export async function runQemu(command: readonly string[], run: QemuRun = {}): Promise<QemuEnd> {
  const started = performance.now();
  if (run.signal?.aborted) return { how: 'aborted', seconds: 0 };
  const child = spawn(command[0]!, command.slice(1), { stdio: ['ignore', 'pipe', 'pipe'] });
  let how: QemuEnd['how'] = 'off';
  let words = '';
  let kill: NodeJS.Timeout | undefined;
  const stop = (why: QemuEnd['how']): void => {
    if (kill !== undefined) return;
    how = why;
    child.kill('SIGTERM');
    kill = setTimeout(() => child.kill('SIGKILL'), GRACE_MS);
  };
  const onAbort = (): void => stop('aborted');
  run.signal?.addEventListener('abort', onAbort);
  const limit = run.timeoutMs === undefined ? undefined : setTimeout(() => stop('timeout'), run.timeoutMs);
  child.stdout.setEncoding('utf8').on('data', (text: string) => run.onSerial?.(text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    words = (words + text).slice(-MESSAGES_KEPT);
  });
  try {
    const code = await new Promise<number | null>((resolve, reject) => {
      child.on('error', reject);
      child.on('close', resolve);
    });
    if (how === 'off' && code !== 0) {
      const last = words.trim().split('\n').at(-1) || (code === null ? 'it was killed' : `exit code ${code}`);
      throw new ImageError('io', `QEMU failed: ${last}`);
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw new ImageError(
      'not-found',
      `${command[0]} is not installed`,
      {},
      { hint: 'apt-get install qemu-system-x86' },
    );
  } finally {
    clearTimeout(limit);
    clearTimeout(kill);
    run.signal?.removeEventListener('abort', onAbort);
  }
  return { how, seconds: (performance.now() - started) / 1000 };
}

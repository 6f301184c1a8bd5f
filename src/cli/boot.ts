import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { Argv } from 'yargs';
import { ImageError } from '../base/errors.ts';
import { openFile } from '../base/io.ts';
import { chooseAccelerator } from '../jobs/accelerator.ts';
import { type BootSurvey, type Firmware, surveyDisk } from '../jobs/boot-survey.ts';
import { findOvmf, privateUefi } from '../jobs/ovmf.ts';
import {
  type Bus,
  firmwareOf,
  type MachineSpec,
  type QemuEnd,
  type QemuFormat,
  qemuCommand,
  runQemu,
  shellLine,
} from '../jobs/qemu.ts';
import { scratchFolder } from '../server/paths.ts';
import { type ScratchArgs, scratchFlags, scratchOptions } from './scratch.ts';
import { type KeyArgs, keyOptions } from './secrets.ts';
import { consoleLines } from './serial.ts';
import { keyFlags, temporaryMount } from './temporary-mount.ts';
import { display, formatDuration, parseSize } from './text.ts';
import type { Context, Verb } from './verb.ts';

const QEMU_FORMAT = {
  raw: 'raw',
  vhd: 'vpc',
  vhdx: 'vhdx',
  qcow2: 'qcow2',
  vmdk: 'vmdk',
  vdi: 'vdi',
} as const satisfies Record<string, QemuFormat>;
const MIB = 1024 * 1024;
const THROW_AWAY = 'boot';

type BootArgs = KeyArgs &
  ScratchArgs & {
    readonly point: string;
    readonly repo: string;
    readonly format: keyof typeof QEMU_FORMAT;
    readonly headless: boolean;
    readonly memory: string;
    readonly keep?: string;
    readonly state?: string;
    readonly print: boolean;
    readonly firmware?: Firmware;
    readonly bus?: Bus;
    readonly network: 'none' | 'user';
    readonly timeout?: number;
  };

interface CloneDescription {
  readonly set: string;
  readonly point: string;
  readonly disks: readonly { readonly name: string; readonly file: string }[];
}

/** MiB; a bare number is MiB too, as for QEMU. */
function memoryOf(text: string): number {
  const size = parseSize(/^\d+$/.test(text) ? `${text}M` : text, '--memory');
  if (size < 16 * MIB) throw new ImageError('usage', 'a machine needs 16 MiB at least', { field: '--memory' });
  return Math.floor(size / MIB);
}

function timeoutOf(seconds: number | undefined): { timeoutMs?: number } {
  if (seconds === undefined) return {};
  if (!(seconds > 0 && seconds <= 1_000_000)) {
    throw new ImageError('usage', 'must be a number of seconds', { field: '--timeout' });
  }
  return { timeoutMs: seconds * 1000 };
}

/** The guest's bytes, whatever the format of the clone: a raw clone is read itself, for others the point it was made of. */
async function survey(at: string, home: string, clone: CloneDescription, args: BootArgs): Promise<BootSurvey> {
  const name = clone.disks[0]!.name;
  const raw = args.format === 'raw' ? home : path.join(at, 'backups', clone.set, clone.point);
  await using disk = await openFile(path.join(raw, `${name}.raw`), 'read', `${name} of ${clone.set}@${clone.point}`);
  return await surveyDisk(disk);
}

function firmwareFor(found: BootSurvey, args: BootArgs): Firmware {
  const firmware = args.firmware ?? found.firmware;
  if (firmware !== null) return firmware;
  const hint = '--firmware bios or --firmware uefi starts it all the same';
  throw new ImageError(
    'not-found',
    'nothing on the first disk boots: no boot code, no EFI system partition',
    {},
    { hint },
  );
}

function screenOf(args: BootArgs, scratch: string): MachineSpec['screen'] {
  if (args.headless) return 'none';
  if (process.env.DISPLAY || process.env.WAYLAND_DISPLAY) return 'window';
  return { vncSocket: path.join(scratch, 'screen') };
}

/** What a person types to do the same: the temporary mount is gone by then, so it names one to be made. */
async function printCommand(spec: MachineSpec, at: string, args: BootArgs, context: Context): Promise<void> {
  const name = args.keep ?? THROW_AWAY;
  const clone = ['--clone', `${args.point}:${name}:${args.format}`];
  const mount = ['bootmount', 'mount', args.repo, 'MNT', ...clone, ...scratchFlags(args), ...keyFlags(args)];
  const moved = spec.disks.map(disk => ({ ...disk, path: disk.path.replace(at, 'MNT') }));
  const ovmf = spec.uefi === undefined ? null : await findOvmf();
  const screen = typeof spec.screen === 'object' ? { screen: { vncSocket: 'screen.vnc' } } : {};
  const uefi = ovmf === null ? {} : { uefi: { code: ovmf.code, vars: 'vars.fd' } };
  const command = qemuCommand({ ...spec, disks: moved, ...uefi, ...screen });
  if (context.json) return context.outJson({ mount, vars: ovmf?.vars ?? null, command });
  context.out(shellLine(mount));
  if (ovmf !== null) context.out(shellLine(['cp', ovmf.vars, 'vars.fd']));
  context.out(shellLine(command));
}

async function machine(at: string, scratch: string, args: BootArgs): Promise<MachineSpec> {
  const home = path.join(at, 'clones', args.keep ?? THROW_AWAY);
  const clone = JSON.parse(fs.readFileSync(path.join(home, 'clone.json'), 'utf8')) as CloneDescription;
  if (clone.disks.length === 0) throw new ImageError('not-found', `${clone.set}@${clone.point} has no disks`);
  const found = await survey(at, home, clone, args);
  const firmware = firmwareFor(found, args);
  return {
    disks: clone.disks.map(({ file }) => ({ path: path.join(home, file), format: QEMU_FORMAT[args.format] })),
    bus: args.bus ?? (found.windows && found.sectorSize === 512 ? 'sata' : 'virtio'),
    sectorSize: found.sectorSize,
    ...(firmware === 'uefi' ? { uefi: await privateUefi(path.join(scratch, 'vars.fd')) } : {}),
    accelerator: await chooseAccelerator(scratch),
    memory: memoryOf(args.memory),
    processors: Math.min(2, os.availableParallelism()),
    screen: screenOf(args, scratch),
    network: args.network,
    localTime: found.windows,
  };
}

async function runMachine(spec: MachineSpec, args: BootArgs, context: Context): Promise<void> {
  const [accelerator] = spec.accelerator.split(',');
  const firmware = firmwareOf(spec);
  const kind = args.keep === undefined ? 'a throw-away clone' : `clone ${args.keep}`;
  context.note(
    `booting ${display(args.point)} from ${kind} (${args.format}, ${firmware}, ${spec.bus}, ${accelerator})`,
  );
  if (typeof spec.screen === 'object') context.note(`screen: VNC on the socket ${spec.screen.vncSocket}`);
  const serial: string[] = [];
  const lines = consoleLines(line => (context.json ? serial.push(line) : context.out(line)));
  const end: QemuEnd = await runQemu(qemuCommand(spec), {
    signal: context.signal,
    ...timeoutOf(args.timeout),
    onSerial: lines.push,
  });
  lines.end();
  context.signal.throwIfAborted();
  const { how, seconds } = end;
  if (context.json) {
    const clone = args.keep ?? null;
    context.outJson({ point: args.point, clone, firmware, bus: spec.bus, accelerator, how, seconds, serial });
  } else if (how === 'off') {
    context.note(`the guest ran for ${formatDuration(seconds * 1000)}`);
    if (args.keep !== undefined)
      context.note(`clone ${args.keep} has what it wrote: see MNT/clones/${args.keep} of a mount`);
  }
  if (how === 'timeout') {
    throw new ImageError('io', `the guest was still running after ${args.timeout} s and was stopped`, {
      field: '--timeout',
    });
  }
}

export const command: Verb = {
  name: 'boot',
  positionals: '<point>',
  summary: 'Boot a restore point in QEMU, from a clone that takes the writes',
  example: 'bootmount boot web01@latest --repo /backups --headless --key-file web01.key',
  build: (yargs: Argv) =>
    keyOptions(scratchOptions(yargs))
      .positional('point', { type: 'string', demandOption: true, describe: 'SET@POINT, SET@latest, SET@~1' })
      .option('repo', { type: 'string', nargs: 1, demandOption: true, describe: 'directory of backups' })
      .option('format', {
        choices: ['raw', 'vhd', 'qcow2'] as const,
        default: 'raw',
        describe: 'disk file that QEMU is given',
      })
      .option('headless', { type: 'boolean', default: false, describe: 'no screen; the serial console is printed' })
      .option('memory', { type: 'string', nargs: 1, default: '2G', describe: 'memory of the machine' })
      .option('keep', { type: 'string', nargs: 1, describe: 'keep what the guest writes, as the clone of this name' })
      .option('state', { type: 'string', nargs: 1, describe: 'folder for the overlays of clones' })
      .option('print', { type: 'boolean', default: false, describe: 'print the commands instead of booting' })
      .option('firmware', { choices: ['bios', 'uefi'] as const, describe: 'instead of what the disk says' })
      .option('bus', {
        choices: ['virtio', 'sata', 'nvme', 'ide'] as const,
        describe: 'how the disks are attached (Windows: sata, else virtio)',
      })
      .option('network', { choices: ['none', 'user'] as const, default: 'none', describe: 'what the guest can reach' })
      .option('timeout', { type: 'number', nargs: 1, describe: 'stop the guest after so many seconds' }),
  async run(raw, context) {
    const args = raw as unknown as BootArgs;
    memoryOf(args.memory);
    timeoutOf(args.timeout);
    const mounted = await temporaryMount({
      repo: args.repo,
      clone: `${args.point}:${args.keep ?? THROW_AWAY}:${args.format}`,
      state: args.state ?? (args.keep === undefined ? null : 'default'),
      keys: args,
      // What is unpacked does not go with the overlays of a throw-away clone: it is used again.
      flags: scratchFlags({ scratch: args.state === undefined ? scratchFolder(args.repo) : undefined, ...args }),
      json: context.json,
      signal: context.signal,
    });
    if ('exitCode' in mounted) {
      if (mounted.told !== '') context.note(mounted.told);
      return context.exitCode(mounted.exitCode);
    }
    await using mount = mounted;
    const spec = await machine(mount.at, mount.scratch, args);
    if (args.print) return printCommand(spec, mount.at, args, context);
    await runMachine(spec, args, context);
  },
};

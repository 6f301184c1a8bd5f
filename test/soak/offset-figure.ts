/** F16: far offsets, through the mount, in every format as far as it reaches. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { type Figure, pause, type Run } from './figure.ts';
import { openStage, type Stage } from './stage.ts';

const TIB = 2 ** 40;
const OPEN_MS = 1000;
const BORDERS = [0, 2 ** 31, 2 ** 32, TIB, 2 ** 43, 2 ** 44];

interface Base {
  readonly name: string;
  readonly size: number;
  readonly formats: readonly string[];
}
const BASES: readonly Base[] = [
  { name: 'vhd', size: 2040 * 2 ** 30, formats: ['raw', 'vhd', 'vhdx', 'qcow2', 'vmdk', 'vdi'] },
  { name: 'large', size: 64 * TIB, formats: ['raw', 'vhdx', 'qcow2', 'vmdk', 'vdi'] },
  // The largest disk whose every offset is a safe integer, in clusters of 2 MiB.
  { name: 'largest', size: 2 ** 53 - 2 ** 21, formats: ['raw'] },
];
const driverOf = (format: string): string => (format === 'vhd' ? 'vpc' : format);

/** Both sides of every border and the end: sectors for the base, and for the clone the ones beside them. */
function sectorsOf({ size }: Base): readonly number[] {
  const all = BORDERS.flatMap(at => [at - 1024, at - 512, at, at + 512]).filter(at => at >= 0 && at + 512 <= size);
  return [...all, size - 1024, size - 512];
}
const baseByte = (i: number): number => 1 + (i % 120);
const cloneByte = (i: number): number => 130 + (i % 120);
/** The clone overwrites every second one. */
const isWritten = (i: number): boolean => i % 2 === 1;

type Command = readonly [string, string];
/** Runs commands of qemu-io; a pattern that is not found counts as an error, which it does not say by its exit code. */
function qemuIo(
  stage: Pick<Stage, 'run'>,
  format: string,
  file: string,
  commands: readonly string[],
  readOnly = false,
): string {
  const args = commands.flatMap<string>(command => ['-c', command] satisfies Command);
  let out: string;
  try {
    out = stage.run('qemu-io', ...(readOnly ? ['-r'] : []), '-f', driverOf(format), ...args, file);
  } catch (error) {
    out = String((error as { stdout?: string }).stdout ?? error);
  }
  const bad = out.split('\n').find(line => /failed|error/i.test(line));
  if (bad !== undefined) throw new Error(`${path.basename(file)}: ${bad}`);
  return out;
}

async function checkClone(stage: Stage, base: Base, format: string, plant: string | null): Promise<string> {
  const sectors = sectorsOf(base);
  const name = `${base.name}-${format}`;
  const began = performance.now();
  await stage.ask({ verb: 'clone', request: { point: `${base.name}@latest`, name, format } });
  const file = path.join(stage.mnt, 'clones', name, `disk0.${format}`);
  fs.closeSync(fs.openSync(file, 'r+'));
  const opened = performance.now() - began;
  const reads = sectors.map((at, i) => `read -P ${isWritten(i) ? cloneByte(i) : baseByte(i)} ${at} 512`);
  const writes = sectors.flatMap((at, i) => (isWritten(i) ? [`write -P ${cloneByte(i)} ${at} 512`] : []));
  qemuIo(stage, format, file, [...writes, 'flush', ...reads]);
  if (plant === null) process.kill((await stage.status()).worker.pid, 'SIGKILL');
  for (let tries = 0; tries < 100; tries++) {
    if (
      await stage.status().then(
        () => true,
        () => false,
      )
    )
      break;
    await pause(20);
  }
  qemuIo(stage, format, file, reads);
  // Nothing of it has gone to the backup, and the view of the backup shows the same places.
  const view = path.join(stage.mnt, 'backups', base.name, 'latest', `disk0.${format}`);
  qemuIo(
    stage,
    format,
    view,
    sectors.map((at, i) => `read -P ${baseByte(i)} ${at} 512`),
    true,
  );
  if (opened > OPEN_MS) throw new Error(`opening took ${opened.toFixed(0)} ms`);
  return `${sectors.length} sectors, open in ${opened.toFixed(0)} ms`;
}

/** One byte on each side of the borders, which only a raw file lets be written alone. */
function checkBytes(file: string, size: number): number {
  const fd = fs.openSync(file, 'r+');
  try {
    const places = [...BORDERS.slice(1).filter(at => at < size), size].flatMap(at =>
      [at - 1, at + 1].filter(a => a < size),
    );
    for (const [i, at] of places.entries()) fs.writeSync(fd, Uint8Array.of(200 + i), 0, 1, at);
    const found = new Uint8Array(1);
    for (const [i, at] of places.entries()) {
      fs.readSync(fd, found, 0, 1, at);
      if (found[0] !== 200 + i) throw new Error(`byte ${at} is ${found[0]}, not ${200 + i}`);
    }
    return places.length;
  } finally {
    fs.closeSync(fd);
  }
}

async function runOffsets(run: Run): Promise<void> {
  const repo = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-soak-'));
  try {
    await using stage = await openStage({
      formats: [],
      plant: run.plant,
      backup: { repo, point: '' },
      prepare(tool) {
        for (const base of BASES) {
          const image = path.join(repo, `${base.name}.qcow2`);
          tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'cluster_size=2M', image, String(base.size));
          qemuIo(
            { run: tool },
            'qcow2',
            image,
            sectorsOf(base).map((at, i) => `write -P ${baseByte(i)} ${at} 512`),
          );
        }
      },
    });
    for (const base of BASES) {
      for (const format of base.formats) {
        const what = `${(base.size / TIB).toFixed(0)} TiB as ${format}`;
        try {
          const seen = await checkClone(stage, base, format, run.plant);
          const bytes =
            format === 'raw'
              ? checkBytes(path.join(stage.mnt, 'clones', `${base.name}-raw`, 'disk0.raw'), base.size)
              : 0;
          run.verdict(what, true, bytes > 0 ? `${seen}, ${bytes} single bytes` : seen);
        } catch (error) {
          run.verdict(what, false, error instanceof Error ? error.message.split('\n')[0]! : String(error));
        }
      }
    }
  } finally {
    fs.rmSync(repo, { recursive: true, force: true });
  }
}

export const offsetFigure: Figure = {
  name: 'F16',
  what: 'offsets on both sides of 2^31, 2^32, 2^40, 2^43, 2^44 and at the largest end, in all formats; 64 TiB opens in < 1 s',
  plants: ['offset-32'],
  run: runOffsets,
};

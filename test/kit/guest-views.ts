/** A mount with one clone per format, for guests to write to by QEMU's drivers; everybody's readings are compared. */
import fs from 'node:fs';
import path from 'node:path';
import { openDiskFile } from '../../src/chain/file.ts';
import { adapters } from '../../src/registry.ts';
import { localFileStore } from '../../src/stores/local.ts';
import { runCli } from '../e2e/run-cli.ts';
import { pattern } from './disks.ts';
import { guestLoad, type Loaded } from './guest-load.ts';
import { outputOf, qemuNbd } from './nbd.ts';
import { random } from './random.ts';

/** Names of the formats in QEMU's tools. */
export const QEMU = { raw: 'raw', vhd: 'vpc', vhdx: 'vhdx', qcow2: 'qcow2', vmdk: 'vmdk', vdi: 'vdi' } as const;
export type FormatName = keyof typeof QEMU;
export const FORMATS = Object.keys(QEMU) as readonly FormatName[];
const CHECKED: readonly FormatName[] = ['qcow2', 'vhdx', 'vdi'];
/**
 * QEMU before the fix of April 2026 corrupts QCOW2, on a plain file too, when a discard or write-zeroes and a write under
 * way share a cluster. In other formats they may share whatever they like.
 */
const APART: Partial<Record<FormatName, number>> = { qcow2: 65_536 };
/** A cylinder of VHD is no limit here: its views are taken by their current size. */
const SIZE = 40 * 2 ** 20 + 3 * 512;

export interface GuestViews extends AsyncDisposable {
  /** Path of a clone's file. */
  file(format: FormatName): string;
  readonly size: number;
  readonly folder: string;
  content(): Uint8Array;
}

async function succeed(args: readonly string[]): Promise<void> {
  const { code, stderr } = await runCli(args);
  if (code !== 0) throw new Error(`bootmount ${args[0]} ended with ${code}: ${stderr}`);
}

/** Half of the disk holds a pattern, the rest is empty. */
export async function guestViews(folder: string, formats: readonly FormatName[]): Promise<GuestViews> {
  const [repo, mnt] = [path.join(folder, 'repo'), path.join(folder, 'mnt')];
  for (const made of [repo, mnt]) fs.mkdirSync(made);
  const content = new Uint8Array(SIZE);
  for (let at = 0; at < SIZE; at += 2 ** 21) pattern(content.subarray(at, Math.min(SIZE, at + 2 ** 20)), at, 1);
  fs.writeFileSync(path.join(repo, 'disk.raw'), content);
  const clones = formats.flatMap(format => ['--clone', `disk@latest:${format}:${format}`]);
  await succeed(['mount', repo, mnt, '--state', path.join(folder, 'state'), ...clones]);
  return {
    file: format => path.join(mnt, 'clones', format, `disk0${format === 'vmdk' ? '.vmdk' : `.${format}`}`),
    size: SIZE,
    folder,
    content: () => content.slice(),
    [Symbol.asyncDispose]: () => succeed(['umount', mnt, '--release']),
  };
}

/** The disk as our own reader sees it in the clone's file. */
export async function ownReading(file: string): Promise<Uint8Array> {
  await using opened = await openDiskFile(path.basename(file), localFileStore(file), adapters, {
    secrets: async () => [],
  });
  const all = new Uint8Array(opened.disk.size);
  for (let at = 0; at < all.length; at += 2 ** 20)
    await opened.disk.read(all.subarray(at, Math.min(all.length, at + 2 ** 20)), at);
  return all;
}

export interface GuestRun {
  readonly operations: number;
  /** Operations between two openings of the file. */
  readonly perOpening: number;
  readonly depth: number;
  readonly seed: number;
  readonly lose?: number;
  /** QEMU compares every read with a raw twin. */
  readonly blkverify?: boolean;
}

export interface GuestResult {
  readonly counts: Record<string, number>;
  readonly openings: number;
  readonly wrong: readonly string[];
  /** What the guest's disk holds now. */
  readonly model: Uint8Array;
}

function drivers(format: FormatName, file: string, twin: string | null): readonly string[] {
  const small = format === 'qcow2' ? ',l2-cache-size=65536,refcount-cache-size=262144' : '';
  if (twin === null && small === '') return ['--discard=unmap', '--detect-zeroes=off', '-f', QEMU[format], file];
  const image = (prefix: string): string =>
    `${prefix}driver=${QEMU[format]},${prefix}discard=unmap,${prefix}file.filename=${file}${small.replaceAll(',', `,${prefix}`)}`;
  if (twin === null) return ['--discard=unmap', '--image-opts', image('')];
  const raw = `raw.driver=file,raw.filename=${twin}`;
  return ['--image-opts', `driver=blkverify,${raw},${image('test.')}`];
}

/** What is wrong with the file while nobody has it open, one line each. */
async function judge(format: FormatName, file: string, model: Uint8Array): Promise<readonly string[]> {
  const wrong: string[] = [];
  const own = await ownReading(file);
  const there = own.subarray(0, model.length);
  if (own.length !== model.length) wrong.push(`our own reader sees ${own.length} bytes, not ${model.length}`);
  if (Buffer.compare(there, model) !== 0)
    wrong.push(`our own reader differs from byte ${there.findIndex((byte, i) => byte !== model[i])} on`);
  if (CHECKED.includes(format)) {
    const told = await outputOf('qemu-img', ['check', '-f', QEMU[format], file]);
    if (!told.includes('No errors were found'))
      wrong.push(`qemu-img check: ${told.split('\n').slice(0, 3).join(' / ')}`);
  }
  return wrong;
}

/** Runs the load in several openings, and compares everything after each. */
export async function guestRun(views: GuestViews, format: FormatName, run: GuestRun): Promise<GuestResult> {
  const file = views.file(format);
  const model = await ownReading(file);
  const numbers = random(run.seed);
  const socket = path.join(views.folder, `${format}.sock`);
  const twin = run.blkverify === true ? path.join(views.folder, `${format}.twin`) : null;
  if (twin !== null) fs.writeFileSync(twin, model);
  const counts: Record<string, number> = {};
  const wrong: string[] = [];
  let openings = 0;
  for (let done = 0; done < run.operations && wrong.length === 0; done += run.perOpening, openings++) {
    await using server = await qemuNbd(socket, drivers(format, file, twin));
    const operations = Math.min(run.perOpening, run.operations - done);
    const plain = twin !== null;
    const lose = run.lose === undefined ? {} : { lose: run.lose };
    const loaded: Loaded = await guestLoad({
      client: server.client,
      model,
      numbers,
      operations,
      depth: run.depth,
      apart: APART[format] ?? 512,
      plain,
      ...lose,
    });
    for (const [kind, n] of Object.entries(loaded.counts)) counts[kind] = (counts[kind] ?? 0) + n;
    wrong.push(...loaded.wrong);
    await server.stop();
    wrong.push(...(await judge(format, file, model)));
    if (twin !== null && Buffer.compare(fs.readFileSync(twin), model) !== 0) wrong.push('the raw twin differs');
  }
  return { counts, openings, wrong, model };
}

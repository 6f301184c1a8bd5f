import fs from 'node:fs';
import path from 'node:path';
import type { Adapter, Image, Keyring, ParentRef, Scratch, Store } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { filesOf, type Identified, identify, ownerOf } from '../chain/scan.ts';
import { openStore } from '../stores/open.ts';
import { verbScratch } from './scratch.ts';
import { type KeyArgs, keyOptions, keyring } from './secrets.ts';
import { display, formatSize, formatTime, table } from './text.ts';
import type { Context, Verb } from './verb.ts';

type InfoArgs = KeyArgs & { readonly path: readonly string[] };

interface Row {
  readonly path: string;
  readonly adapter: string | null;
  /** The type of the newest point in the file; null when unknown. */
  readonly role: string | null;
  /** Machine or set, and time, as the file itself says. */
  readonly set?: string;
  readonly time?: string;
  readonly parent?: string;
  readonly encrypted?: boolean;
  readonly disks: readonly { readonly name: string; readonly size: number; readonly stored: number }[];
  /** What else the file holds. */
  readonly notes?: readonly string[];
  readonly warnings?: readonly string[];
  readonly reason?: string;
}

const NO_POINT = 'holds no restore point';

const parentName = (parent: ParentRef): string => (parent.by === 'name' ? parent.name : (parent.names[0] ?? parent.id));

function describe(file: string, image: Image): Row {
  const newest = image.points.findLast(point => point.type !== 'snapshot') ?? image.points.at(-1);
  const snapshots = image.points.filter(point => point.type === 'snapshot' && point !== newest).length;
  const notes = [...(snapshots > 0 ? [`${snapshots} ${snapshots === 1 ? 'snapshot' : 'snapshots'} inside`] : [])];
  notes.push(...(image.notes ?? []));
  const row = { path: file, adapter: image.adapter, encrypted: image.encrypted, notes, warnings: image.warnings };
  if (newest === undefined) return { ...row, role: null, disks: [], reason: NO_POINT };
  return {
    ...row,
    role: newest.type,
    ...(newest.set === null ? {} : { set: newest.set }),
    ...(newest.time === null ? {} : { time: newest.time.toISOString() }),
    ...(newest.parent === null ? {} : { parent: parentName(newest.parent) }),
    disks: newest.disks.map(({ name, size, stored }) => ({ name, size, stored })),
    ...(newest.problem === null ? {} : { reason: newest.problem.message }),
  };
}

/** A file that belongs to an image of several files, which another one of them opens. */
function partOf(file: string, adapters: readonly Adapter[]): string | null {
  const has = (name: string): boolean => fs.existsSync(path.join(path.dirname(file), name));
  return ownerOf(adapters, path.basename(file), has)?.name ?? null;
}

interface Looking {
  readonly store: Store;
  readonly scratch: Scratch;
  readonly adapters: readonly Adapter[];
  readonly keys: Keyring;
}

/** `file`: the path of the store's `name`, for the user. null: no adapter claims it. */
async function lookAt({ store, scratch, adapters, keys }: Looking, name: string, file: string): Promise<Row | null> {
  let found: Identified | null;
  try {
    found = await identify(name, store, adapters, keys, '', scratch);
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    throw new ImageError(error.fault, error.message, { ...error.where, file }, { cause: error });
  }
  if (found === null) return null;
  if (found.image === null) {
    const reason = found.problem?.message ?? 'cannot be opened';
    return { path: file, adapter: found.adapter.name, role: null, disks: [], reason };
  }
  await using image = found.image;
  return describe(file, image);
}

async function look(
  file: string,
  adapters: readonly Adapter[],
  keys: Keyring,
  context: Context,
): Promise<readonly Row[]> {
  await using store = await openStore(file);
  await using scratch = verbScratch(file, {}, context);
  const looking = { store, scratch, adapters, keys };
  if (fs.statSync(file).isDirectory()) return lookInside(looking, file);
  const row = await lookAt(looking, path.basename(file), file);
  if (row !== null) return [row];
  const owner = partOf(file, adapters);
  if (owner !== null) return [{ path: file, adapter: owner, role: 'part', disks: [] }];
  return [{ path: file, adapter: null, role: null, disks: [], reason: 'not of a known format' }];
}

/** The images in a folder; what belongs to them, and what is none, is left out. */
async function lookInside(looking: Looking, folder: string): Promise<readonly Row[]> {
  const { store, adapters } = looking;
  const names = new Set<string>();
  for await (const { name } of filesOf(store, adapters)) names.add(name);
  const rows: Row[] = [];
  for (const name of names) {
    if (ownerOf(adapters, name, its => names.has(its)) !== undefined) continue;
    const row = await lookAt(looking, name, path.join(folder, name));
    if (row !== null && (row.role !== null || row.reason !== NO_POINT)) rows.push(row);
  }
  if (rows.length > 0) return rows;
  return [
    { path: folder, adapter: null, role: null, disks: [], reason: 'no backup of a known format is in this folder' },
  ];
}

const COLUMNS = ['FILE', 'FORMAT', 'SET', 'TIME', 'ROLE', 'DISKS', 'STORED', 'PARENT', 'NOTES'].map(title => ({
  title,
}));

function rowText(row: Row, adapters: readonly Adapter[]): readonly string[] {
  const title = adapters.find(({ name }) => name === row.adapter)?.title;
  const format = row.adapter === null ? 'unknown' : title === undefined ? row.adapter : `${row.adapter} (${title})`;
  const disks = row.disks.map(({ name, size }) => `${name} ${formatSize(size)}`).join(', ');
  const stored = row.disks.reduce((sum, disk) => sum + disk.stored, 0);
  const state = row.reason ?? (row.encrypted === true ? 'encrypted' : null);
  const notes = [...(state === null ? [] : [state]), ...(row.notes ?? [])].join('; ');
  return [
    row.path,
    format,
    row.set ?? '-',
    row.time === undefined ? '-' : formatTime(new Date(row.time)),
    row.role ?? '-',
    disks || '-',
    disks === '' ? '-' : formatSize(stored),
    row.parent ?? '-',
    notes,
  ];
}

export const command: Verb = {
  name: 'info',
  positionals: '<path..>',
  summary: 'Say what files are, by their content: format, role in the chain, disks, parent, what else is inside',
  example: 'bootmount info disk.qcow2 web01/*.bml',
  build: yargs =>
    keyOptions(
      yargs.positional('path', { type: 'string', array: true, describe: 'files to look at, or folders of them' }),
    ),
  async run(args: InfoArgs, context) {
    using keys = keyring(args, { ask: false });
    const adapters = await context.adapters();
    const rows: Row[] = [];
    let firstError: unknown = null;
    for (const file of args.path) {
      try {
        rows.push(...(await look(file, adapters, keys, context)));
      } catch (error) {
        if (args.path.length === 1) throw error;
        firstError ??= error;
        const reason = error instanceof Error ? error.message : String(error);
        rows.push({ path: file, adapter: null, role: null, disks: [], reason });
      }
    }
    if (context.json) context.outJson(rows);
    else {
      context.out(
        table(
          COLUMNS,
          rows.map(row => rowText(row, adapters)),
        ),
      );
    }
    for (const { warnings = [] } of rows)
      for (const warning of warnings) context.note(`bootmount: warning: ${display(warning)}`);
    for (const { path: file, adapter, reason } of rows)
      if (adapter === null) context.note(`bootmount: info: ${display(reason ?? '')} (${display(file)})`);
    if (rows.some(row => row.adapter === null) || firstError !== null) context.exitCode(3);
  },
};

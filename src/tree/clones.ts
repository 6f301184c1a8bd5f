/**
 * Linked clones: a writable disk over a restore point. What the guest writes rests in the state folder:
 *
 *   clones/<name>/clone.json      what it is a clone of, bound by the point's identity
 *   clones/<name>/<disk>/         overlay in guest offsets
 *   clones/<name>/<disk>.patch/   bytes of the view that a hypervisor wrote over computed metadata, in file offsets
 */
import fs from 'node:fs';
import path from 'node:path';
import type { DirNode, DiskFormat, FileNode, Node, OpenFile, VirtualFile } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { replaceFile, syncDirectory } from '../base/files.ts';
import { once } from '../base/lazy.ts';
import type { Repository, RestorePoint } from '../chain/point.ts';
import { type CloneDisk, openCloneDisk } from './clone-disk.ts';
import { folder, jsonFile } from './nodes.ts';

export interface CloneRecord {
  readonly version: 1;
  readonly name: string;
  readonly set: string;
  readonly point: string;
  /** Of the restore point; another base under this overlay would be a disk of torn files. */
  readonly identity: string;
  readonly format: DiskFormat['name'];
  readonly created: string;
  readonly disks: readonly { readonly name: string; readonly size: number }[];
}

export type CloneState = 'ok' | 'refused';

export interface CloneSummary {
  readonly name: string;
  /** null, as what follows, when the record cannot be read. */
  readonly set: string | null;
  readonly point: string | null;
  readonly format: string | null;
  readonly created: string | null;
  readonly disks: CloneRecord['disks'];
  readonly state: CloneState;
  readonly reason: string | null;
  readonly open: readonly string[];
}

interface Clone {
  readonly record: CloneRecord;
  /** null: the base is gone or is another one. */
  readonly point: RestorePoint | null;
  readonly reason: string | null;
  readonly disks: () => Promise<readonly CloneDisk[]>;
  /** Open handles by file name. */
  readonly handles: Map<string, number>;
  opened: boolean;
}

const TRASH = '.deleted-';
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/;

function parseRecord(text: string, file: string): CloneRecord {
  let value: Partial<CloneRecord>;
  try {
    value = JSON.parse(text) as Partial<CloneRecord>;
  } catch (cause) {
    throw new ImageError('corrupt', 'is not JSON', { file }, { cause });
  }
  const { version, name, set, point, identity, format, created, disks } = value;
  if (version !== 1)
    throw new ImageError('unsupported', `clone version ${String(version)} is not known`, { file, field: 'version' });
  const texts = [name, set, point, identity, format, created];
  const sound = Array.isArray(disks) && disks.every(d => typeof d?.name === 'string' && Number.isSafeInteger(d?.size));
  if (texts.some(t => typeof t !== 'string') || !sound)
    throw new ImageError('corrupt', 'a field of the clone is missing', { file });
  return { version, name, set, point, identity, format, created, disks } as CloneRecord;
}

export interface ClonesSpec {
  /** Folder of the overlays; made when missing. */
  readonly folder: string;
  readonly repository: Repository;
  readonly formats: readonly DiskFormat[];
}

export class Clones {
  readonly #spec: ClonesSpec;
  readonly #clones = new Map<string, Clone>();
  /** Clones whose record cannot be read, and why. */
  readonly #unreadable = new Map<string, string>();

  private constructor(spec: ClonesSpec) {
    this.#spec = spec;
  }

  /** Finds the clones that the state folder holds; none is opened yet. */
  static async open(spec: ClonesSpec): Promise<Clones> {
    const clones = new Clones(spec);
    fs.mkdirSync(spec.folder, { recursive: true, mode: 0o700 });
    for (const name of fs.readdirSync(spec.folder).sort()) {
      if (name.startsWith(TRASH)) fs.rmSync(path.join(spec.folder, name), { recursive: true, force: true });
      const file = path.join(spec.folder, name, 'clone.json');
      // A clone exists once its record does: a folder without one was being made when the machine stopped.
      if (!NAME.test(name) || !fs.existsSync(file)) continue;
      try {
        clones.#adopt(parseRecord(fs.readFileSync(file, 'utf8'), file));
      } catch (error) {
        if (!(error instanceof ImageError)) throw error;
        // One damaged record must not keep the backups from being mounted.
        clones.#unreadable.set(name, `its record ${error.message} (${file})`);
      }
    }
    return clones;
  }

  #adopt(record: CloneRecord): Clone {
    const set = this.#spec.repository.sets.find(s => s.name === record.set);
    const point = set?.points.find(p => p.name === record.point) ?? null;
    let reason: string | null = null;
    if (point === null) reason = `its restore point ${record.set}@${record.point} is not in this repository`;
    else if (point.problem !== null) reason = `its restore point cannot be read: ${point.problem.message}`;
    else if (point.identity !== record.identity) {
      reason = `${record.set}@${record.point} is not the backup it was made from (identity ${point.identity.slice(0, 12)}, wanted ${record.identity.slice(0, 12)})`;
    }
    const clone: Clone = {
      record,
      point: reason === null ? point : null,
      reason,
      disks: once(() => this.#openDisks(clone)),
      handles: new Map(),
      opened: false,
    };
    this.#clones.set(record.name, clone);
    return clone;
  }

  async #openDisks(clone: Clone): Promise<readonly CloneDisk[]> {
    if (clone.point === null) throw new ImageError('broken-chain', `clone ${clone.record.name}: ${clone.reason}`);
    const opened: CloneDisk[] = [];
    const format = this.#format(clone.record.format);
    for (const [i, { name }] of clone.point.disks.entries()) {
      const base = await clone.point.openDisk(i);
      opened.push(
        await openCloneDisk({
          folder: path.join(this.#spec.folder, clone.record.name),
          name,
          base,
          format,
          clone: clone.record,
        }),
      );
    }
    clone.opened = true;
    return opened;
  }

  #format(name: string): DiskFormat {
    const format = this.#spec.formats.find(f => f.name === name);
    if (format !== undefined) return format;
    const known = this.#spec.formats.map(f => f.name).join(', ');
    throw new ImageError(
      'usage',
      `there is no writable format ${JSON.stringify(name)}`,
      {},
      { hint: `formats: ${known}` },
    );
  }

  #get(name: string): Clone {
    const clone = this.#clones.get(name);
    if (clone === undefined) throw new ImageError('not-found', `there is no clone ${JSON.stringify(name)}`);
    return clone;
  }

  list(): readonly CloneSummary[] {
    const known = [...this.#clones.values()].map(({ record, reason, handles }): CloneSummary => {
      const { name, set, point, format, created, disks } = record;
      const state = reason === null ? 'ok' : 'refused';
      return { name, set, point, format, created, disks, state, reason, open: [...handles.keys()] };
    });
    const damaged = [...this.#unreadable].map(([name, reason]): CloneSummary => {
      const nothing = { set: null, point: null, format: null, created: null, disks: [] };
      return { name, ...nothing, state: 'refused', reason, open: [] };
    });
    return [...known, ...damaged];
  }

  /** Makes a clone. One of that name over the same point and in the same format is simply kept. */
  async create(name: string, point: RestorePoint, formatName: string): Promise<CloneRecord> {
    if (!NAME.test(name)) {
      throw new ImageError(
        'usage',
        `${JSON.stringify(name)} is no name for a clone`,
        {},
        { hint: 'letters, digits, dot, dash and underscore, up to 100' },
      );
    }
    const format = this.#format(formatName);
    const damaged = this.#unreadable.get(name);
    if (damaged !== undefined) throw new ImageError('exists', `there is a clone ${name} already, but ${damaged}`);
    const there = this.#clones.get(name);
    if (there !== undefined) {
      const { record, reason } = there;
      const where = { file: path.join(this.#spec.folder, name) };
      if (reason !== null)
        throw new ImageError('broken-chain', `clone ${name}: ${reason}`, where, {
          hint: 'delete the clone, or mount the repository it belongs to',
        });
      if (record.identity === point.identity && record.format === format.name) return record;
      throw new ImageError(
        'exists',
        `there is a clone ${name} already, of ${record.set}@${record.point} as ${record.format}`,
        where,
      );
    }
    const disks = await Promise.all(point.disks.map((_, i) => point.openDisk(i)));
    // The format says no before anything is made.
    for (const [i, disk] of disks.entries()) format.layout(disk, { writable: true, name: point.disks[i]!.name });
    const record: CloneRecord = {
      version: 1,
      name,
      set: point.set,
      point: point.name,
      identity: point.identity,
      format: format.name,
      created: new Date().toISOString(),
      disks: point.disks.map(d => ({ name: d.name, size: d.size })),
    };
    await this.#write(record);
    const clone = this.#adopt(record);
    try {
      await clone.disks();
    } catch (error) {
      this.#clones.delete(name);
      fs.rmSync(path.join(this.#spec.folder, name), { recursive: true, force: true });
      throw error;
    }
    return record;
  }

  async #write(record: CloneRecord): Promise<void> {
    const home = path.join(this.#spec.folder, record.name);
    // Left by a creation that was cut short it is empty; anything else in it is somebody's data.
    if (fs.existsSync(home)) {
      const left = fs.readdirSync(home).filter(file => !file.startsWith('clone.json.new-'));
      if (left.length > 0) {
        throw new ImageError(
          'exists',
          `the folder of clone ${record.name} holds data, but no record of what it is a clone of`,
          { file: home },
        );
      }
      fs.rmSync(home, { recursive: true });
    }
    fs.mkdirSync(home, { mode: 0o700 });
    try {
      await replaceFile(path.join(home, 'clone.json'), `${JSON.stringify(record, null, 2)}\n`);
      await syncDirectory(this.#spec.folder);
    } catch (error) {
      // Nothing but the record can be in it yet, and whoever asked is told that there is no clone.
      fs.rmSync(home, { recursive: true, force: true });
      throw error;
    }
  }

  async #close(clone: Clone): Promise<void> {
    if (!clone.opened) return;
    clone.opened = false;
    for (const disk of await clone.disks()) await disk.close();
  }

  /** Deletes what was written. Refused while a disk of it is open. */
  async remove(name: string): Promise<void> {
    const clone = this.#get(name);
    if (clone.handles.size > 0)
      throw new ImageError('busy', `clone ${name} is in use`, { file: [...clone.handles.keys()].join(', ') });
    await this.#close(clone);
    this.#clones.delete(name);
    // Away by its name first: a deletion that is cut short leaves rubbish, never half a clone.
    const trash = path.join(this.#spec.folder, `${TRASH}${name}-${Date.now()}`);
    fs.renameSync(path.join(this.#spec.folder, name), trash);
    await syncDirectory(this.#spec.folder);
    fs.rmSync(trash, { recursive: true, force: true });
  }

  /** Back to the restore point. */
  async reset(name: string): Promise<CloneRecord> {
    const { point, record, reason } = this.#get(name);
    if (point === null) throw new ImageError('broken-chain', `clone ${name}: ${reason}`);
    await this.remove(name);
    return this.create(name, point, record.format);
  }

  async flush(): Promise<void> {
    for (const clone of this.#clones.values()) {
      if (clone.opened) for (const disk of await clone.disks()) await disk.flush();
    }
  }

  /** Flushes and closes every clone; goes on after a failure and throws the first one at the end. */
  async close(): Promise<void> {
    const failures: unknown[] = [];
    for (const clone of this.#clones.values()) {
      await this.#close(clone).catch(error => failures.push(error));
    }
    if (failures.length > 0) throw failures[0];
  }

  root(): DirNode {
    const mtime = new Date();
    return folder(mtime, () => {
      const usable = [...this.#clones.values()].filter(clone => clone.reason === null);
      return new Map<string, Node>(usable.map(clone => [clone.record.name, this.#folder(clone)]));
    });
  }

  #folder(clone: Clone): DirNode {
    const mtime = new Date(clone.record.created);
    const entries = once(async () => {
      const nodes = new Map<string, Node>();
      for (const disk of await clone.disks()) {
        for (const view of disk.views)
          nodes.set(view.name, fileNode(clone, view.name, view.file, mtime, disk, view.open));
      }
      return nodes.set(
        'clone.json',
        jsonFile(mtime, () => cloneDescription(clone.record)),
      );
    });
    return {
      kind: 'dir',
      mtime,
      mode: 0o755,
      list: async () => [...(await entries())].map(([name, { kind }]) => ({ name, kind })),
      child: async name => (await entries()).get(name) ?? null,
    };
  }
}

/** What a backup of the clone, or a person, needs to know. */
function cloneDescription(record: CloneRecord): unknown {
  const { name, set, point, identity, format, created, disks } = record;
  const suffix = { raw: '.raw', vhd: '.vhd', qcow2: '.qcow2', vhdx: '.vhdx', vmdk: '.vmdk', vdi: '.vdi' }[format];
  return {
    name,
    set,
    point,
    identity,
    format,
    created,
    disks: disks.map(d => ({ ...d, file: `${d.name}${suffix}`, format })),
  };
}

function fileNode(
  clone: Clone,
  name: string,
  file: VirtualFile,
  mtime: Date,
  disk: CloneDisk,
  open: () => OpenFile,
): FileNode {
  return {
    kind: 'file',
    mtime,
    mode: 0o600,
    writable: true,
    size: () => disk.sizeOf(file),
    allocated: () => disk.allocated(file),
    open: async () => {
      const opened = open();
      clone.handles.set(name, (clone.handles.get(name) ?? 0) + 1);
      return {
        ...opened,
        async [Symbol.asyncDispose]() {
          const left = (clone.handles.get(name) ?? 1) - 1;
          if (left > 0) clone.handles.set(name, left);
          else clone.handles.delete(name);
          await opened[Symbol.asyncDispose]();
        },
      };
    },
  };
}

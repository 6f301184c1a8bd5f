/** Who serves a disk file in the benchmark: this project and the programs that do the same work. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Job } from './jobs.ts';

const PROGRAM = fileURLToPath(new URL('../../src/cli/bootmount.js', import.meta.url));

/** What is served. `repo`: for bootmount; the others take the image itself. */
export interface Subject {
  readonly name: string;
  readonly repo: string;
  readonly point: string;
  readonly keyFile: string | null;
  /** The image at the end of its chain, in a format that others know; null: nobody else reads it. */
  readonly image: { readonly file: string; readonly format: string } | null;
  /** The same content as a raw file; null: not measured. */
  readonly plain: string | null;
  readonly writable: boolean;
  readonly jobs: readonly Job[];
  /** Read ('warm') or written ('full') wholly before anything is measured. */
  readonly prepared: 'warm' | 'full' | null;
}

export interface Served {
  /** The file to read and write. */
  readonly file: string;
  stop(): Promise<void>;
}

export interface Peer {
  readonly name: string;
  /** null: it can; otherwise why not. */
  cannot(subject: Subject): string | null;
  serve(subject: Subject, mnt: string): Promise<Served>;
}

const has = (program: string): boolean =>
  (process.env.PATH ?? '').split(':').some(folder => fs.existsSync(path.join(folder, program)));

export const tool = (program: string, ...args: string[]): string =>
  execFileSync(program, args, { encoding: 'utf8', maxBuffer: 2 ** 26, stdio: ['ignore', 'pipe', 'pipe'] });

async function until(what: string, ready: () => boolean): Promise<void> {
  for (let tries = 0; tries < 800; tries++) {
    if (ready()) return;
    await new Promise(resolve => setTimeout(resolve, 25));
  }
  throw new Error(`${what} did not come up`);
}

const served = (file: string): boolean => {
  try {
    return fs.statSync(file).size > 0;
  } catch {
    return false;
  }
};

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise(resolve => child.once('exit', resolve));
  child.kill('SIGTERM');
  await gone;
}

export const plainFile: Peer = {
  name: 'plain file',
  cannot: subject => (subject.plain === null ? 'has no raw twin' : null),
  serve: async subject => ({ file: subject.plain!, stop: async () => {} }),
};

export const bootmount: Peer = {
  name: 'bootmount',
  cannot: () => null,
  async serve(subject, mnt) {
    const state = fs.mkdtempSync(path.join(path.dirname(mnt), 'state-'));
    const keys = subject.keyFile === null ? [] : ['--key-file', subject.keyFile];
    const cache = subject.prepared === 'warm' ? ['--cache', '1G'] : [];
    const clone = subject.writable ? ['--clone', `${subject.point}:bench:raw`] : [];
    tool(process.execPath, PROGRAM, 'mount', subject.repo, mnt, '--state', state, ...cache, ...keys, ...clone);
    const [set, point] = subject.point.split('@') as [string, string];
    return {
      file: subject.writable ? `${mnt}/clones/bench/disk0.raw` : `${mnt}/backups/${set}/${point}/disk0.raw`,
      async stop() {
        tool(process.execPath, PROGRAM, 'umount', mnt, '--release');
        fs.rmSync(state, { recursive: true });
      },
    };
  },
};

export const storageDaemon: Peer = {
  name: 'qemu-storage-daemon',
  cannot: ({ image }) =>
    !has('qemu-storage-daemon') ? 'not installed' : image === null ? 'does not know the format' : null,
  async serve({ image, writable }, mnt) {
    const file = `${mnt}.qsd`;
    fs.writeFileSync(file, '');
    let [top, format] = [image!.file, image!.format as string];
    const overlay = `${mnt}.qcow2`;
    if (writable) {
      tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', path.resolve(top), '-F', format, overlay);
      [top, format] = [overlay, 'qcow2'];
    }
    const child = spawn(
      'qemu-storage-daemon',
      [
        '--blockdev',
        `driver=file,filename=${top},node-name=file,read-only=${writable ? 'off' : 'on'}`,
        '--blockdev',
        `driver=${format},file=file,node-name=disk,read-only=${writable ? 'off' : 'on'}`,
        '--export',
        `type=fuse,id=export,node-name=disk,mountpoint=${file},writable=${writable ? 'on' : 'off'}`,
      ],
      { stdio: 'ignore' },
    );
    await until('qemu-storage-daemon', () => served(file));
    return {
      file,
      async stop() {
        await ended(child);
        for (const made of [file, overlay]) fs.rmSync(made, { force: true });
      },
    };
  },
};

export const nbdfuse: Peer = {
  name: 'nbdkit + nbdfuse',
  cannot: ({ image, writable }) =>
    !has('nbdkit') || !has('nbdfuse')
      ? 'not installed'
      : image?.format !== 'raw'
        ? 'serves raw files only'
        : writable
          ? 'has no lasting overlay'
          : null,
  async serve({ image }, mnt) {
    const socket = `${mnt}.sock`;
    const kit = spawn('nbdkit', ['-f', '-r', '-U', socket, 'file', image!.file], { stdio: 'ignore' });
    await until('nbdkit', () => fs.existsSync(socket));
    const fuse = spawn('nbdfuse', ['-r', `${mnt}/disk.raw`, '--unix', socket], { stdio: 'ignore' });
    await until('nbdfuse', () => served(`${mnt}/disk.raw`));
    return {
      file: `${mnt}/disk.raw`,
      async stop() {
        tool('umount', mnt);
        await ended(fuse);
        await ended(kit);
        fs.rmSync(socket, { force: true });
      },
    };
  },
};

export const xmount: Peer = {
  name: 'xmount',
  cannot: ({ image }) =>
    !has('xmount') ? 'not installed' : image?.format !== 'raw' ? 'does not know the format' : null,
  async serve({ image, writable }, mnt) {
    const cache = `${mnt}.cache`;
    tool('xmount', '--in', 'raw', image!.file, ...(writable ? ['--owcache', cache] : []), '--out', 'raw', mnt);
    const name = path.basename(image!.file).replace(/\.raw$/, '.dd');
    await until('xmount', () => fs.readdirSync(mnt).some(file => file.endsWith('.dd')));
    return {
      file: path.join(mnt, fs.readdirSync(mnt).find(file => file.endsWith('.dd')) ?? name),
      async stop() {
        tool('umount', mnt);
        fs.rmSync(cache, { force: true });
      },
    };
  },
};

export const vhdimount: Peer = {
  name: 'vhdimount',
  cannot: ({ image, writable }) =>
    !has('vhdimount') ? 'not installed' : image?.format !== 'vpc' ? 'reads VHD only' : writable ? 'reads only' : null,
  async serve({ image }, mnt) {
    tool('vhdimount', image!.file, mnt);
    await until('vhdimount', () => served(`${mnt}/vhdi1`));
    return { file: `${mnt}/vhdi1`, stop: async () => void tool('umount', mnt) };
  },
};

export const peers: readonly Peer[] = [plainFile, bootmount, storageDaemon, xmount, nbdfuse, vhdimount];

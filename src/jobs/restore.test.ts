import { describe, expect, test } from 'vitest';
import { memoryDisk, pattern } from '../../test/kit/disks.ts';
import type { ByteFile, Bytes, Disk } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { memoryStore } from '../stores/memory.ts';
import { type RestoreSpec, type RestoreTarget, restore } from './restore.ts';

const MIB = 2 ** 20;

interface FakeTarget extends RestoreTarget {
  readonly store: ReturnType<typeof memoryStore>;
  journal: string | null;
}

/** `tamper` stands between the job and the file. */
function fakeTarget(tamper: (file: ByteFile) => ByteFile = file => file): FakeTarget {
  const store = memoryStore();
  return {
    name: 'out',
    store,
    journal: null,
    async open() {
      for await (const { name } of store.list()) {
        if (name === 'out.partial') return tamper((await store.open(name)) as ByteFile);
      }
      return tamper(await store.create('out.partial'));
    },
    async readJournal() {
      return this.journal;
    },
    async writeJournal(text) {
      this.journal = text;
    },
    async finish() {
      await store.rename('out.partial', 'out');
      this.journal = null;
    },
    async discard() {
      await store.remove('out.partial');
      this.journal = null;
    },
  };
}

const names = async (target: FakeTarget): Promise<readonly string[]> => {
  const all: string[] = [];
  for await (const { name } of target.store.list()) all.push(name);
  return all;
};

function specFor(disk: Disk, target: RestoreTarget, more: Partial<RestoreSpec> = {}): RestoreSpec {
  return {
    disk,
    identity: 'point/disk0',
    format: 'raw',
    target,
    write: null,
    reopen: async () => {
      throw new Error('raw is not opened again');
    },
    readBack: true,
    checking() {},
    progress() {},
    signal: new AbortController().signal,
    ...more,
  };
}

function content(): Uint8Array {
  const bytes = new Uint8Array(60 * MIB + 512);
  for (let at = MIB; at < bytes.length - MIB; at += 4 * MIB) pattern(bytes.subarray(at, at + 100_000), at, 7);
  bytes[bytes.length - 1] = 1;
  return bytes;
}

const counted = (disk: Disk): Disk & { readonly reads: Bytes[] } => {
  const reads: Bytes[] = [];
  const read: Disk['read'] = (into, at) => {
    reads.push(at);
    return disk.read(into, at);
  };
  return { ...disk, reads, read };
};

/** Stops the job when so much is written. */
function stopAt(bytes: Bytes): Pick<RestoreSpec, 'signal' | 'progress'> {
  const stop = new AbortController();
  return {
    signal: stop.signal,
    progress(done) {
      if (done >= bytes) stop.abort(new ImageError('io', 'stopped'));
    },
  };
}

describe('restore to raw', () => {
  test('writes the disk, leaves runs of zeros alone, and takes away what it needed', async () => {
    const bytes = content();
    let written = 0;
    const target = fakeTarget(file => ({
      ...file,
      size: bytes.length,
      // Later than the next window is begun.
      async write(from, at) {
        written += from.length;
        await new Promise(resolve => setTimeout(resolve, 2));
        await file.write(from, at);
      },
    }));
    const result = await restore(specFor(memoryDisk(bytes), target));
    expect(Buffer.compare(target.store.bytes('out'), bytes)).toBe(0);
    expect(await names(target)).toEqual(['out']);
    expect(result).toEqual({ resumedAt: 0, written });
    expect(written).toBeLessThan(3 * MIB);
  });

  test('continues where it was stopped, and reads nothing twice', async () => {
    const bytes = content();
    const target = fakeTarget();
    await expect(restore(specFor(memoryDisk(bytes), target, stopAt(16 * MIB)))).rejects.toThrow('stopped');
    expect(await names(target)).toEqual(['out.partial']);
    expect(JSON.parse(target.journal!)).toMatchObject({ identity: 'point/disk0' });
    const { done } = JSON.parse(target.journal!) as { done: number };
    expect(done).toBeGreaterThanOrEqual(16 * MIB);
    expect(done).toBeLessThan(40 * MIB);
    const disk = counted(memoryDisk(bytes));
    const result = await restore(specFor(disk, target));
    expect(result.resumedAt).toBe(done);
    expect(Math.min(...disk.reads)).toBeGreaterThanOrEqual(done);
    expect(Buffer.compare(target.store.bytes('out'), bytes)).toBe(0);
  });

  test('clears what a crash left behind the durable part', async () => {
    const bytes = content();
    const target = fakeTarget();
    await expect(restore(specFor(memoryDisk(bytes), target, stopAt(4 * MIB)))).rejects.toThrow('stopped');
    const file = await target.open();
    await file.write(new Uint8Array(MIB).fill(0xee), 57 * MIB + 200_000);
    await restore(specFor(memoryDisk(bytes), target));
    expect(Buffer.compare(target.store.bytes('out'), bytes)).toBe(0);
  });

  test.each([
    ['another point', { identity: 'other/disk0' }],
    ['a journal that is none', { journal: '{"done":' }],
    ['a journal that lies about its place', { done: 3 }],
    ['a journal of another size', { size: 5 }],
  ])('starts over for %s', async (_name, change: { journal?: string } & Record<string, unknown>) => {
    const bytes = content();
    const target = fakeTarget();
    await expect(restore(specFor(memoryDisk(bytes), target, stopAt(16 * MIB)))).rejects.toThrow('stopped');
    target.journal = change.journal ?? JSON.stringify({ ...JSON.parse(target.journal!), ...change });
    expect(await restore(specFor(memoryDisk(bytes), target))).toMatchObject({ resumedAt: 0 });
    expect(Buffer.compare(target.store.bytes('out'), bytes)).toBe(0);
  });

  test('damage to the part that an earlier run wrote is found', async () => {
    const target = fakeTarget();
    await expect(restore(specFor(memoryDisk(content()), target, stopAt(16 * MIB)))).rejects.toThrow('stopped');
    const file = await target.open();
    await file.write(Uint8Array.of(0xee), 5 * MIB + 9);
    await expect(restore(specFor(memoryDisk(content()), target))).rejects.toMatchObject({
      fault: 'corrupt',
      message: expect.stringContaining(`guest offset ${5 * MIB + 9}`),
    });
    expect(await names(target)).toEqual([]);
  });

  test('a write that changes a byte, or never arrives, is found; the file is not given its name', async () => {
    const flips = (file: ByteFile): ByteFile =>
      Object.assign(Object.create(file) as ByteFile, {
        write(from: Uint8Array, at: Bytes) {
          const copy = from.slice();
          if (at === 33 * MIB) copy[12]! ^= 4;
          return file.write(copy, at);
        },
      });
    const drops = (file: ByteFile): ByteFile =>
      Object.assign(Object.create(file) as ByteFile, {
        write: (from: Uint8Array, at: Bytes) => (at === 5 * MIB ? undefined : file.write(from, at)),
      });
    for (const tamper of [flips, drops]) {
      const target = fakeTarget(tamper);
      await expect(restore(specFor(memoryDisk(content()), target))).rejects.toMatchObject({ fault: 'corrupt' });
      expect(await names(target)).toEqual([]);
    }
  });

  test('a medium that refused once keeps no later state of the journal', async () => {
    let syncs = 0;
    const target = fakeTarget(file =>
      Object.assign(Object.create(file) as ByteFile, {
        async sync() {
          if (++syncs === 2) throw new ImageError('io', 'I/O failed (EIO)');
        },
      }),
    );
    await expect(restore(specFor(memoryDisk(content()), target))).rejects.toMatchObject({ fault: 'io' });
    expect(JSON.parse(target.journal!)).toMatchObject({ done: 0 });
    expect(await names(target)).toEqual(['out.partial']);
  });

  test('is not read back where nobody wants it', async () => {
    const target = fakeTarget(file =>
      Object.assign(Object.create(file) as ByteFile, {
        read() {
          throw new Error('read back');
        },
      }),
    );
    await restore(specFor(memoryDisk(content()), target, { readBack: false }));
    await expect(restore(specFor(memoryDisk(content()), target))).rejects.toThrow('read back');
  });

  test('a full target keeps what it has; a damaged source leaves nothing', async () => {
    const bytes = content();
    let full = true;
    const target = fakeTarget(file =>
      Object.assign(Object.create(file) as ByteFile, {
        write(from: Uint8Array, at: Bytes) {
          if (full && at >= 33 * MIB) throw new ImageError('no-space', 'no space left');
          return file.write(from, at);
        },
      }),
    );
    await expect(restore(specFor(memoryDisk(bytes), target))).rejects.toMatchObject({ fault: 'no-space' });
    expect(await names(target)).toEqual(['out.partial']);
    full = false;
    expect((await restore(specFor(memoryDisk(bytes), target))).resumedAt).toBeGreaterThan(16 * MIB);
    expect(Buffer.compare(target.store.bytes('out'), bytes)).toBe(0);

    const bad: Disk = {
      ...memoryDisk(bytes),
      read() {
        throw new ImageError('corrupt', 'the checksum does not hold', { file: 'layer', at: 3 });
      },
    };
    const other = fakeTarget();
    await expect(restore(specFor(bad, other))).rejects.toMatchObject({ fault: 'corrupt' });
    expect(await names(other)).toEqual([]);
  });
});

describe('restore by a writer', () => {
  /** A "format" that is the disk itself, backwards in time: it writes the file from its end. */
  const write: RestoreSpec['write'] = async (disk, file, onProgress, signal) => {
    for (let at = disk.size; at > 0; at -= 512) {
      signal?.throwIfAborted();
      const part = new Uint8Array(512);
      await disk.read(part, at - 512);
      await file.write(part, at - 512);
      onProgress?.(disk.size - at + 512, disk.size);
    }
  };
  const small = (): Uint8Array => {
    const bytes = new Uint8Array(MIB);
    pattern(bytes, 0, 2);
    return bytes;
  };
  const by = (target: FakeTarget, more: Partial<RestoreSpec> = {}): RestoreSpec =>
    specFor(memoryDisk(small()), target, {
      format: 'other',
      write,
      reopen: async () => ({ disk: memoryDisk(target.store.bytes('out.partial')), async [Symbol.asyncDispose]() {} }),
      ...more,
    });

  test('is read back through the format', async () => {
    const target = fakeTarget();
    await restore(by(target));
    expect(Buffer.compare(target.store.bytes('out'), small())).toBe(0);
  });

  test('a writer that loses a sector is found, and an abort leaves nothing', async () => {
    const loses: RestoreSpec['write'] = async (disk, file) => {
      await write!(disk, file);
      await file.write(new Uint8Array(512), 4096);
    };
    const target = fakeTarget();
    await expect(restore(by(target, { write: loses }))).rejects.toMatchObject({
      fault: 'corrupt',
      message: expect.stringContaining('guest offset 4096'),
    });
    expect(await names(target)).toEqual([]);
    await expect(restore(by(target, stopAt(5000)))).rejects.toThrow('stopped');
    expect(await names(target)).toEqual([]);
  });
});

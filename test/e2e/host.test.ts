import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as after } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { fuseHost, mountsOf, openFuse, unmount } from '../../src/host/fuse/index.ts';
import { DISK_SIZE, MiB, MTIME, memoryTree, PATTERN_SIZE, pattern, REGION } from './memory-tree.ts';
import { fio, fioJob, removeTemporary, run, type Served, serve, start, temporary, watch } from './served.ts';

const { open, readdir, readFile, readlink, stat, statfs, truncate, utimes, chmod, mkdir, unlink: remove } = fs.promises;
const { O_RDONLY, O_RDWR, O_DIRECT, O_DSYNC } = fs.constants;

const supervise = path.join(import.meta.dirname, 'supervise-memory.ts');
const missing = (program: string): boolean =>
  !['/usr/bin', '/bin', '/usr/sbin'].some(at => fs.existsSync(path.join(at, program)));
const noFuse = fs.existsSync('/dev/fuse') && process.getuid?.() === 0 ? null : 'needs /dev/fuse and root';
const noNative = fs.existsSync(path.join(import.meta.dirname, '../../node_modules/fuse-native'))
  ? null
  : 'fuse-native is not installed';
const noFio = missing('fio') ? 'fio is missing' : null;

const code = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => 'no error',
    error => (error as NodeJS.ErrnoException).code ?? String(error),
  );

const patternAt = (at: number, length: number): Buffer => {
  const bytes = Buffer.alloc(length);
  pattern(bytes, at);
  return bytes;
};

/** Small, seeded: the same offsets on each run. */
function* numbers(seed: number): Generator<number, never> {
  for (let x = seed; ; ) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    yield x / 2 ** 32;
  }
}

for (const transport of ['fuse', 'fuse-native'] as const) {
  const reason = noFuse ?? (transport === 'fuse-native' ? noNative : null);
  describe.skipIf(reason !== null)(`${transport}${reason === null ? '' : ` (skipped: ${reason})`}`, () => {
    let served: Served;
    const at = (name: string): string => path.join(served.at, name);
    beforeAll(async () => {
      served = await serve({ transport, asyncWrites: true });
    });
    afterAll(async () => {
      await served[Symbol.asyncDispose]();
    });

    it('lists names, also those that are not ASCII, and big directories', async () => {
      const names = await readdir(served.at);
      expect(names).toContain('pattern.raw');
      expect(names).toContain('Übergröße – файл.txt');
      expect(await readFile(at('Übergröße – файл.txt'), 'utf8')).toBe('!');
      const many = await readdir(at('many'), { withFileTypes: true });
      expect(many).toHaveLength(3000);
      expect(many.every(entry => entry.isFile())).toBe(true);
      expect((await run('ls', '-l', at('many'))).out.split('\n')).toHaveLength(3002);
    });

    it('gives attributes', async () => {
      const file = await stat(at('sparse.raw'));
      expect(file).toMatchObject({ size: 16 * MiB, blocks: (4 * REGION) / 512, mode: 0o100444, uid: 0 });
      expect(Math.floor(file.mtimeMs / 1000)).toBe(Math.floor(MTIME.getTime() / 1000));
      expect((await stat(at('disk.raw'))).mode).toBe(0o100644);
      expect((await stat(at('sub'))).isDirectory()).toBe(true);
      expect((await statfs(served.at)).bfree).toBeGreaterThan(0);
    });

    it('follows links', async () => {
      expect(await readlink(at('link'))).toBe('sub/deeper/pattern.raw');
      expect((await stat(at('link'))).size).toBe(PATTERN_SIZE);
      expect(await readdir(at('sub/deeper/up'))).toEqual(await readdir(served.at));
    });

    it('reads the right bytes at random places', async () => {
      for (const name of ['pattern.raw', 'async.raw', 'sub/deeper/pattern.raw']) {
        const file = await open(at(name));
        const random = numbers(7);
        for (let i = 0; i < 80; i++) {
          const from = Math.floor(random.next().value * PATTERN_SIZE);
          const length = Math.min(1 + Math.floor(random.next().value ** 4 * 3 * MiB), PATTERN_SIZE - from);
          const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, from);
          if (bytesRead !== length || !buffer.equals(patternAt(from, length)))
            expect.fail(`${name}: ${length} at ${from}`);
        }
        const { bytesRead } = await file.read(Buffer.alloc(100), 0, 100, PATTERN_SIZE - 10);
        expect(bytesRead).toBe(10);
        await file.close();
      }
    });

    it('names what is missing or cannot be changed', async () => {
      expect(await code(stat(at('nothing')))).toBe('ENOENT');
      expect(await code(open(Buffer.from(`${served.at}/\xff\xfe`, 'latin1') as unknown as string))).toBe('ENOENT');
      expect(await code(open(at('pattern.raw'), O_RDWR))).toBe('EROFS');
      expect(await code(open(at('new'), 'w'))).toBe('EROFS');
      expect(await code(mkdir(at('new')))).toBe('EROFS');
      expect(await code(remove(at('hello.txt')))).toBe('EROFS');
      expect(await code(chmod(at('disk.raw'), 0o777))).toBe('EPERM');
      expect(await code(truncate(at('disk.raw'), 4096))).toBe('EPERM');
      expect(await code(open(at('disk.raw'), 'w'))).toBe('EPERM');
      expect(await code(utimes(at('disk.raw'), 1, 1))).toBe('no error');
    });

    it('passes an error on, once, and reads the rest', async () => {
      expect(await code(readFile(at('rejected.raw')))).toBe('EACCES');
      const file = await open(at('bad.raw'), O_RDONLY | O_DIRECT);
      const page = Buffer.alloc(4096);
      const before = served.events.length;
      expect(await code(file.read(page, 0, 4096, 5 * MiB))).toBe('EIO');
      expect((await file.read(page, 0, 4096, 3 * MiB)).bytesRead).toBe(4096);
      expect(page[17]).toBe(1);
      await file.close();
      await after(50);
      expect(served.events.slice(before).filter(event => event.startsWith('failed'))).toHaveLength(1);
    });

    it('writes, grows and flushes', async () => {
      const file = await open(at('disk.raw'), 'r+');
      await file.write(patternAt(0, 70_001), 0, 70_001, 12_345);
      const { buffer } = await file.read(Buffer.alloc(70_001), 0, 70_001, 12_345);
      expect(buffer.equals(patternAt(0, 70_001))).toBe(true);
      const flushes = (): number => served.events.filter(event => event === 'flush').length;
      const before = flushes();
      await file.datasync();
      await file.sync();
      await expect.poll(flushes).toBe(before + 2);
      await truncate(at('disk.raw'), DISK_SIZE);
      expect((await file.stat()).size).toBe(DISK_SIZE);
      expect(await code(truncate(at('disk.raw'), DISK_SIZE + 1))).toBe('EFBIG');
      await file.close();
    });

    it('makes a write on an O_DSYNC file durable before it answers', async () => {
      const flushes = (): number => served.events.filter(event => event === 'flush').length;
      const file = await open(at('disk.raw'), O_RDWR | O_DSYNC);
      const before = flushes();
      await file.write(Buffer.alloc(4096, 1), 0, 4096, 0);
      await expect.poll(flushes).toBeGreaterThan(before);
      await file.close();
    });

    it('does not let a slow file hold up the others', async () => {
      const slow = Promise.all(
        Array.from({ length: 4 }, (_, i) =>
          run('dd', `if=${at('slow.raw')}`, 'of=/dev/null', 'bs=4k', 'count=4', `skip=${i * 40}`, 'iflag=direct'),
        ),
      );
      await after(30);
      const file = await open(at('pattern.raw'), O_RDONLY | O_DIRECT);
      const page = Buffer.alloc(4096);
      let worst = 0;
      for (let i = 0; i < 200; i++) {
        const began = performance.now();
        await file.read(page, 0, 4096, i * 4096);
        worst = Math.max(worst, performance.now() - began);
      }
      await file.close();
      expect(worst).toBeLessThan(100);
      expect((await slow).every(ran => ran.status === 0)).toBe(true);
    });

    it.skipIf(noFio !== null)('serves 32 readers at once', async () => {
      for (const name of ['pattern.raw', 'async.raw']) {
        const ran = await fio(
          at(name),
          '--readonly',
          '--rw=randread',
          '--bs=4k',
          '--iodepth=32',
          '--size=32M',
          '--io_size=32M',
        );
        expect(ran.status, ran.err).toBe(0);
        expect(fioJob(ran).read.total_ios).toBe(8192);
      }
    });

    it.skipIf(noFio !== null)('keeps apart 16 writes that are under way', async () => {
      const ran = await fio(
        at('disk.raw'),
        '--rw=randrw',
        '--bs=4k',
        '--iodepth=16',
        '--size=32M',
        '--loops=2',
        '--verify=crc32c',
        '--verify_fatal=1',
      );
      expect(ran.status, ran.err).toBe(0);
      const { read, write } = fioJob(ran);
      expect(read.total_ios + write.total_ios).toBeGreaterThan(10_000);
    });

    it('is busy while a file is open, and ends after that', async () => {
      await using other = await serve({ transport });
      const file = await open(path.join(other.at, 'hello.txt'));
      await expect(unmount(other.at)).rejects.toMatchObject({ fault: 'busy' });
      await file.close();
      await expect.poll(() => code(unmount(other.at))).toBe('no error');
      await other.heard('ended');
      await expect(unmount(other.at)).rejects.toMatchObject({ fault: 'not-found' });
    });
  });
}

afterAll(removeTemporary);

describe.skipIf(noFuse !== null)(`fuse only${noFuse === null ? '' : ` (skipped: ${noFuse})`}`, () => {
  let served: Served;
  const at = (name: string): string => path.join(served.at, name);
  beforeAll(async () => {
    served = await serve({ transport: 'fuse' });
  });
  afterAll(async () => {
    await served[Symbol.asyncDispose]();
  });

  it('has stable inodes and the exact time', async () => {
    const before = await stat(at('sub/deeper/pattern.raw'));
    expect(before.mtimeMs).toBe(MTIME.getTime());
    await using again = await serve({ transport: 'fuse' });
    expect((await stat(path.join(again.at, 'sub/deeper/pattern.raw'))).ino).toBe(before.ino);
  });

  it.skipIf(missing('python3') && !fs.existsSync('/root/.pyenv'))('finds data and holes', async () => {
    const program = `
import os, sys
def seek(fd, at, how):
    try: return os.lseek(fd, at, how)
    except OSError as e: return -e.errno
a = os.open(sys.argv[1], os.O_RDONLY); b = os.open(sys.argv[2], os.O_RDONLY); M = 1 << 20
print(seek(a, 0, os.SEEK_DATA), seek(a, 0, os.SEEK_HOLE), seek(a, M + 5, os.SEEK_DATA), seek(a, M + 5, os.SEEK_HOLE),
  seek(a, 14 * M, os.SEEK_DATA), seek(a, 16 * M, os.SEEK_HOLE), seek(b, 0, os.SEEK_DATA), seek(b, 7, os.SEEK_HOLE))`;
    const ran = await run('python3', '-c', program, at('sparse.raw'), at('hole.raw'));
    expect(ran.out.trim(), ran.err).toBe([MiB, 0, MiB + 5, 2 * MiB, -6, -6, -6, 7].join(' '));
  });

  it('punches, zeroes and reserves', async () => {
    const file = await open(at('disk.raw'), 'r+');
    await file.write(Buffer.alloc(256 * 1024, 0xaa), 0, 256 * 1024, 0);
    const fallocate = (...args: string[]): Promise<number | null> =>
      run('fallocate', ...args, at('disk.raw')).then(ran => ran.status);
    expect(await fallocate('-p', '-o', '4096', '-l', '8192')).toBe(0);
    expect(await fallocate('-z', '-o', '65536', '-l', '512')).toBe(0);
    expect(await fallocate('-o', '0', '-l', '1048576')).toBe(0);
    expect(await fallocate('-n', '-o', '0', '-l', String(DISK_SIZE))).toBe(0);
    expect((await file.stat()).size).toBe(DISK_SIZE / 2);
    expect(await fallocate('-c', '-o', '0', '-l', '4096')).not.toBe(0);
    expect(await fallocate('-z', '-o', String(DISK_SIZE / 2 - 4096), '-l', '8192')).toBe(0);
    expect((await file.stat()).size).toBe(DISK_SIZE / 2 + 4096);
    const { buffer } = await file.read(Buffer.alloc(256 * 1024), 0, 256 * 1024, 0);
    const expected = Buffer.alloc(256 * 1024, 0xaa)
      .fill(0, 4096, 12288)
      .fill(0, 65536, 66048);
    expect(buffer.equals(expected)).toBe(true);
    await file.close();
  });

  it('lets a copy inside the mount fall back to reading and writing', async () => {
    const ran = await run(
      'dd',
      `if=${at('pattern.raw')}`,
      `of=${at('disk.raw')}`,
      'bs=1M',
      'count=8',
      'conv=notrunc,fsync',
    );
    expect(ran.status, ran.err).toBe(0);
    const program =
      'import os, sys\na = os.open(sys.argv[1], os.O_RDONLY); b = os.open(sys.argv[2], os.O_RDWR)\nprint(os.copy_file_range(a, b, 4096, 0, 8192))';
    expect((await run('python3', '-c', program, at('pattern.raw'), at('disk.raw'))).out.trim()).toBe('4096');
    const file = await open(at('disk.raw'));
    const { buffer } = await file.read(Buffer.alloc(4096), 0, 4096, 8192);
    expect(buffer.equals(patternAt(0, 4096))).toBe(true);
    await file.close();
  });

  it('receives a message that was sent before somebody asked for the statistics', async () => {
    const file = await open(at('pattern.raw'), O_RDONLY | O_DIRECT);
    for (let i = 0; i < 50; i++) {
      // From every state of the loop: idle and blocked, just busy, with reads waiting in the pool.
      for (let reads = 0; reads < i % 5; reads++) await file.read(Buffer.alloc(512), 0, 512, reads * 4096);
      if (i % 7 === 0) await readdir(served.at);
      await new Promise(resolve => served.child.stdin!.write(`${i}`, resolve));
      await statfs(served.at);
      await expect.poll(() => served.events, { timeout: 1000 }).toContain(`received ${i}`);
    }
    await file.close();
  });

  it('serves from the thread that uses it, as long as that does not wait synchronously', async () => {
    const mountpoint = temporary();
    const root = memoryTree({ asyncWrites: false, fault: 'none', said: () => undefined });
    const mounted = await fuseHost.mount(root, mountpoint, { fsname: 'same thread', allowOther: false, extra: [] });
    expect((await readFile(path.join(mountpoint, 'pattern.raw'))).equals(patternAt(0, PATTERN_SIZE))).toBe(true);
    await mounted[Symbol.asyncDispose]();
    await mounted.ended;
    expect(mountsOf(mountpoint)).toEqual([]);
  });

  it('refuses a second mount and heals a dead one', async () => {
    const dead = await serve({ transport: 'fuse' });
    onTestFinished(() => dead[Symbol.asyncDispose]());
    expect(() => openFuse(dead.at, { fsname: 'x', allowOther: false, extra: [] })).toThrow(
      expect.objectContaining({ fault: 'busy' }),
    );
    dead.child.kill('SIGKILL');
    await new Promise(resolve => dead.child.once('exit', resolve));
    expect(await code(stat(dead.at))).toBe('ENOTCONN');
    await using healed = start({ transport: 'fuse', at: dead.at });
    await healed.heard('ready');
    expect(mountsOf(dead.at)).toHaveLength(1);
    expect(await readFile(path.join(dead.at, 'hello.txt'), 'utf8')).toBe('hello\n');
  });

  it.skipIf(noFio !== null)('control: one buffer shared by all writes is found out', async () => {
    await using broken = await serve({ transport: 'fuse', fault: 'shared-buffer' });
    const ran = await fio(
      path.join(broken.at, 'disk.raw'),
      '--rw=randrw',
      '--bs=4k',
      '--iodepth=16',
      '--size=16M',
      '--verify=crc32c',
      '--verify_fatal=1',
    );
    expect(ran.status).not.toBe(0);
    expect(ran.err).toMatch(/verify/);
  });

  it.skipIf(noFio !== null)('goes on in the next process after SIGKILL, without an error under load', async () => {
    const folder = temporary();
    const mountpoint = path.join(folder, 'mnt');
    const backing = path.join(folder, 'disk');
    const nodesFile = path.join(folder, 'nodes');
    fs.mkdirSync(mountpoint);
    fs.closeSync(fs.openSync(backing, 'w'));
    fs.truncateSync(backing, 32 * MiB);
    await using supervisor = watch(
      spawn(process.execPath, [supervise, mountpoint, backing, nodesFile, '300'], {
        stdio: ['ignore', 'pipe', 'inherit'],
      }),
      mountpoint,
    );
    await supervisor.heard('ready');
    const held = await open(path.join(mountpoint, 'sub/deeper/pattern.raw'));
    const load = fio(
      path.join(mountpoint, 'disk.raw'),
      '--rw=randrw',
      '--bs=4k',
      '--iodepth=16',
      '--size=32M',
      '--verify=crc32c',
      '--verify_fatal=1',
      '--time_based',
      '--runtime=6',
    );
    const ran = await load;
    expect(ran.status, ran.err).toBe(0);
    expect(supervisor.events.filter(event => event === 'taken over').length).toBeGreaterThan(5);
    const { buffer } = await held.read(Buffer.alloc(100), 0, 100, 40 * MiB);
    expect(buffer.equals(patternAt(40 * MiB, 100))).toBe(true);
    await held.close();
  });
});

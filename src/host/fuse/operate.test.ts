import { describe, expect, it } from 'vitest';
import type { ByteSource, DirNode, FileNode, LinkNode, OpenFile } from '../../base/contracts.ts';
import { ImageError } from '../../base/errors.ts';
import { Table } from './nodes.ts';
import { operate } from './operate.ts';
import { ERRNO, FALLOCATE, INIT, INIT2, MAX_IO, O, OPCODE, putU64, ROOT_ID, WRITE_PAYLOAD } from './protocol.ts';
import { NO_REPLY, type Session } from './session.ts';
import { Slot } from './slot.ts';
import { LEAST_SPLICED } from './splice.ts';

const SIZE = 100_000;

interface Setting {
  readonly size?: number;
  readonly plain?: OpenFile['plain'];
  readonly pipe?: Session['pipe'];
}

/** A disk that notes what it is asked. */
function tree({ size: first = SIZE, plain }: Setting): { root: DirNode; calls: string[] } {
  const calls: string[] = [];
  let size = first;
  const file: OpenFile = {
    size: () => size,
    read: (into, at) => {
      calls.push(`read ${into.length} at ${at}`);
      if (at === 8192) throw new ImageError('corrupt', 'damaged');
      into.fill(0x55);
    },
    ...(plain === undefined ? {} : { plain }),
    write: (from, at) => void calls.push(`write ${from.length} at ${at}`),
    zero: (at, length) => void calls.push(`zero ${length} at ${at}`),
    resize: to => {
      size = to;
    },
    flush: async () => void calls.push('flush'),
    seek: () => null,
    async [Symbol.asyncDispose]() {
      calls.push('close');
    },
  };
  const node: FileNode = {
    kind: 'file',
    mtime: new Date(0),
    mode: 0o644,
    size: () => size,
    allocated: () => size,
    writable: true,
    open: async () => file,
  };
  const root: DirNode = {
    kind: 'dir',
    mtime: new Date(0),
    mode: 0o555,
    list: async () => [
      { name: 'disk', kind: 'file' },
      { name: 'a/b', kind: 'file' },
      { name: '', kind: 'dir' },
    ],
    child: async name => (name === 'disk' ? node : null),
  };
  return { root, calls };
}

function setUp(setting: Setting = {}) {
  const { root, calls } = tree(setting);
  const session: Session = {
    root,
    table: Table.fresh(root, undefined),
    uid: 0,
    owners: true,
    gid: 0,
    pipe: setting.pipe ?? null,
    onInit: () => calls.push('init'),
  };
  const slot = new Slot();
  /** Sends a request of `length` bytes whose fields are 32-bit words, `skip` of them after the header being zero. */
  const ask = async (
    opcode: number,
    node: number,
    words: readonly number[] | Uint8Array,
    length = 120,
  ): Promise<number> => {
    slot.words.fill(0, 0, 64);
    slot.words[1] = opcode;
    putU64(slot.words, 4, node);
    if (words instanceof Uint8Array) slot.bytes.set(words, 40);
    else slot.words.set(words, 10);
    return operate(session, slot, length);
  };
  const lookup = (name: Uint8Array): Promise<number> => ask(OPCODE.lookup, ROOT_ID, name, 40 + name.length);
  const open = async (): Promise<number> => {
    await lookup(Buffer.from('disk\0'));
    await ask(OPCODE.open, 2, [2]);
    return slot.bodyWords[0]!;
  };
  return { slot, ask, lookup, open, calls, session };
}

/** Sends READs for an open file, and gives what the operation returns at once. */
const reader =
  (fh: number, slot: Slot, session: Session) =>
  (at: number, length: number): unknown => {
    slot.words.fill(0, 0, 40);
    slot.words.set([fh, 0, at, 0, length], 10);
    slot.words[1] = OPCODE.read;
    return operate(session, slot, 80);
  };

describe('INIT', () => {
  it('takes what is offered and never the write-back cache or locks', async () => {
    const { ask, slot, calls } = setUp();
    expect(await ask(OPCODE.init, 0, [7, 99, 131072, 0xffffffff, 0xffffffff])).toBe(64);
    const [major, minor, , flags, background, maxWrite, , pages, flags2] = slot.bodyWords;
    expect([major, minor, maxWrite, pages! % 65536]).toEqual([7, 45, 2 ** 19, 128]);
    expect(background! % 65536).toBe(64);
    expect(flags! & INIT.ASYNC_DIO).toBe(INIT.ASYNC_DIO);
    expect(flags! & INIT.CACHE_SYMLINKS).toBe(INIT.CACHE_SYMLINKS);
    expect(flags! & ((1 << 16) | (1 << 1) | (1 << 10))).toBe(0);
    expect(flags2).toBe(INIT2.DIRECT_IO_ALLOW_MMAP + INIT2.HAS_RESEND);
    expect(calls).toEqual(['init']);
  });

  it('keeps to the small requests of an old kernel and refuses one that is too old', async () => {
    const { ask, slot } = setUp();
    expect(await ask(OPCODE.init, 0, [7, 12, 4096, INIT.ASYNC_READ, 0xffffffff])).toBe(24);
    expect([slot.bodyWords[3], slot.bodyWords[5]]).toEqual([INIT.ASYNC_READ, 131072]);
    expect(await ask(OPCODE.init, 0, [7, 8, 0, 0, 0])).toBe(-ERRNO.EOPNOTSUPP);
  });
});

it('knows names as bytes', async () => {
  const { lookup } = setUp();
  expect(await lookup(Buffer.from('disk\0'))).toBe(128);
  expect(await lookup(Uint8Array.of(0xff, 0xfe, 0))).toBe(-ERRNO.ENOENT);
  expect(await lookup(Buffer.from('other\0'))).toBe(-ERRNO.ENOENT);
});

it('has a link looked up again that points elsewhere than the kernel may have kept', async () => {
  const { ask, slot, session } = setUp();
  const link: LinkNode = { kind: 'link', mtime: new Date(0), target: 'old' };
  const entry = session.table.give(session.table.entry(ROOT_ID)!, 'latest', link);
  expect(await ask(OPCODE.readlink, entry.id, [])).toBe(3);
  expect(Buffer.from(slot.body.subarray(0, 3)).toString()).toBe('old');
  entry.node = { ...link, target: 'new' };
  expect(await ask(OPCODE.readlink, entry.id, [])).toBe(-ERRNO.ESTALE);
});

it('leaves names out that the kernel would refuse', async () => {
  const { ask, slot } = setUp();
  await ask(OPCODE.opendir, ROOT_ID, [0]);
  const length = await ask(OPCODE.readdir, ROOT_ID, [slot.bodyWords[0]!, 0, 0, 0, 4096]);
  expect(length).toBe(3 * 32);
  expect(Buffer.from(slot.body.subarray(64 + 24, 64 + 28)).toString()).toBe('disk');
});

it('answers reads in one go, cut at the end of the file', async () => {
  const { open, slot, session, calls } = setUp();
  const fh = await open();
  const read = reader(fh, slot, session);
  expect(read(0, 4096)).toBe(4096);
  expect(slot.body[4095]).toBe(0x55);
  expect(read(SIZE - 10, 4096)).toBe(10);
  expect(read(SIZE, 4096)).toBe(0);
  expect(() => read(8192, 512)).toThrow('damaged');
  expect(calls).toEqual(['read 4096 at 0', `read 10 at ${SIZE - 10}`, 'read 512 at 8192']);
});

it('passes long reads on that lie in one place, and reads what cannot be passed on', async () => {
  const passed: string[] = [];
  const pipe: Session['pipe'] = {
    send(_, place, length) {
      passed.push(`${length} at ${place.at} of ${place.source.name}`);
      return place.at < 2 * MAX_IO;
    },
    close() {},
  };
  const source: ByteSource = { name: 'image', size: 2 ** 30, read() {}, async [Symbol.asyncDispose]() {} };
  const plain: OpenFile['plain'] = at => (at === 4096 ? null : { source, at: at + 512 });
  const { open, slot, session, calls } = setUp({ pipe, plain, size: 2 ** 30 });
  const fh = await open();
  const read = reader(fh, slot, session);
  expect(read(0, MAX_IO)).toBe(NO_REPLY);
  expect(read(4096, MAX_IO)).toBe(MAX_IO);
  expect(read(2 * MAX_IO, LEAST_SPLICED)).toBe(LEAST_SPLICED);
  expect(read(0, LEAST_SPLICED - 4096)).toBe(LEAST_SPLICED - 4096);
  expect(passed).toEqual([`${MAX_IO} at 512 of image`, `${LEAST_SPLICED} at ${2 * MAX_IO + 512} of image`]);
  expect(calls).toEqual([
    `read ${MAX_IO} at 4096`,
    `read ${LEAST_SPLICED} at ${2 * MAX_IO}`,
    `read ${LEAST_SPLICED - 4096} at 0`,
  ]);
});

it('answers as much as an earlier process agreed on', async () => {
  const { open, session } = setUp({ size: 2 ** 30 });
  const fh = await open();
  const slot = new Slot(2 * MAX_IO);
  expect(reader(fh, slot, session)(0, 2 * MAX_IO)).toBe(2 * MAX_IO);
  expect(slot.body[2 * MAX_IO - 1]).toBe(0x55);
});

it('flushes before it answers a write with O_DSYNC, and only that', async () => {
  const { open, ask, calls } = setUp();
  const fh = await open();
  const write = (flags: number, got = WRITE_PAYLOAD + 512): Promise<number> =>
    ask(OPCODE.write, 2, [fh, 0, 4096, 1, 512, 0, 0, 0, flags], got);
  expect(await write(2)).toBe(8);
  expect(calls.splice(0)).toEqual([`write 512 at ${4096 + 2 ** 32}`]);
  expect(await write(2 | O.DSYNC)).toBe(8);
  expect(calls.splice(0)).toEqual([`write 512 at ${4096 + 2 ** 32}`, 'flush']);
  expect(await write(2, WRITE_PAYLOAD + 511)).toBe(-ERRNO.EINVAL);
  expect(calls).toEqual([]);
});

it.each([
  [FALLOCATE.PUNCH_HOLE | FALLOCATE.KEEP_SIZE, 0, 4096, 0, 'zero 4096 at 0'],
  [FALLOCATE.PUNCH_HOLE, 0, 4096, -ERRNO.EOPNOTSUPP, null],
  [FALLOCATE.ZERO_RANGE | FALLOCATE.KEEP_SIZE, SIZE - 1, 4096, 0, `zero 1 at ${SIZE - 1}`],
  [FALLOCATE.ZERO_RANGE, SIZE, 4096, 0, `zero 4096 at ${SIZE}`],
  [FALLOCATE.PUNCH_HOLE | FALLOCATE.KEEP_SIZE, SIZE + 1, 4096, 0, null],
  [0, 0, SIZE, 0, null],
  [FALLOCATE.KEEP_SIZE, 0, SIZE * 2, 0, null],
  [8, 0, 4096, -ERRNO.EOPNOTSUPP, null],
])('fallocate mode %i from %i, %i bytes, gives %i', async (mode, at, length, answer, call) => {
  const { open, ask, calls } = setUp();
  const fh = await open();
  expect(await ask(OPCODE.fallocate, 2, [fh, 0, at, 0, length, 0, mode])).toBe(answer);
  expect(calls).toEqual(call === null ? [] : [call]);
});

it('refuses what it does not do in the way each caller expects', async () => {
  const { ask } = setUp();
  const answers = {
    create: ERRNO.EROFS,
    unlink: ERRNO.EROFS,
    rename2: ERRNO.EROFS,
    getxattr: ERRNO.ENODATA,
    setxattr: ERRNO.EOPNOTSUPP,
    copyFileRange: ERRNO.EOPNOTSUPP,
    ioctl: ERRNO.ENOTTY,
  } as const;
  for (const [name, errno] of Object.entries(answers)) {
    expect(await ask(OPCODE[name as keyof typeof answers], ROOT_ID, [])).toBe(-errno);
  }
  expect(await ask(9999, ROOT_ID, [])).toBe(-ERRNO.ENOSYS);
  expect(await ask(OPCODE.interrupt, ROOT_ID, [])).toBe(NO_REPLY);
  expect(await ask(OPCODE.read, 2, [77, 0])).toBe(-ERRNO.EBADF);
  expect(await ask(OPCODE.getattr, 12345, [])).toBe(-ERRNO.ESTALE);
});

it('takes no more from a BATCH_FORGET than was sent', async () => {
  const { lookup, ask, session } = setUp();
  await lookup(Buffer.from('disk\0'));
  await lookup(Buffer.from('disk\0'));
  expect(await ask(OPCODE.batchForget, 0, [2, 0, 2, 0, 1, 0, 2, 0, 1, 0], 40 + 8 + 16)).toBe(NO_REPLY);
  expect(session.table.entry(2)?.lookups).toBe(1);
});

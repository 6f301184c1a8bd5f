/**
 * Deflate (RFC 1951), alone or with the header and checksum of zlib (RFC 1950), straight into the caller's memory. Node makes
 * a stream, an object and a buffer for every call, which takes longer than most blocks; where the optional package `koffi`
 * is there, the library inside Node is used with streams that are kept (zlib.h, `z_stream`).
 */
import {
  constants,
  inflate as nodeInflate,
  inflateRaw as nodeInflateRaw,
  inflateRawSync as nodeInflateRawSync,
  inflateSync as nodeInflateSync,
} from 'node:zlib';
import { callAside } from './aside.ts';
import { type Koffi, koffi } from './native.ts';
import { Pace } from './pace.ts';

export type Wrapping = 'raw' | 'zlib';

/** `z_stream` on 64-bit systems. */
const Z_STREAM = { size: 112, nextIn: 0, availIn: 8, nextOut: 24, availOut: 32 } as const;
const FINISH = 4;
const OK = 0;
const STREAM_END = 1;
const BUF_ERROR = -5;
const WINDOW_BITS: Readonly<Record<Wrapping, number>> = { raw: -15, zlib: 15 };

interface Stream {
  /** Never moved: the library compares its address. */
  readonly memory: Uint8Array;
  readonly view: DataView;
}

interface Zlib {
  take(wrapping: Wrapping): Stream;
  give(stream: Stream): void;
  aim(stream: Stream, packed: Uint8Array, into: Uint8Array): void;
  run(stream: Stream): number;
  runAside(stream: Stream): Promise<number>;
}

function open({ load }: Koffi): Zlib {
  const node = load(null);
  const init = node.func('int inflateInit2_(void *, int, const char *, int)');
  const reset = node.func('int inflateReset2(void *, int)');
  const inflate = node.func('int inflate(void *, int)');
  const version = node.func('const char *zlibVersion()')();
  // Moves nothing, and says where it is.
  const place = load('libc.so.6').func('int64_t memmove(void *, void *, size_t)');
  // As many as were needed at once; never ended, since a thread may be at work when the program ends.
  const free: Stream[] = [];
  const made = (bits: number): Stream => {
    const buffer = new ArrayBuffer(Z_STREAM.size);
    const stream = { memory: new Uint8Array(buffer), view: new DataView(buffer) };
    if (init(stream.memory, bits, version, Z_STREAM.size) !== OK) throw new Error('inflateInit2 failed');
    return stream;
  };
  return {
    take(wrapping) {
      const stream = free.pop() ?? made(WINDOW_BITS[wrapping]);
      if (reset(stream.memory, WINDOW_BITS[wrapping]) !== OK) throw new Error('inflateReset2 failed');
      return stream;
    },
    give: stream => void free.push(stream),
    aim({ view }, packed, into) {
      view.setBigUint64(Z_STREAM.nextIn, BigInt(place(packed, packed, 0)), true);
      view.setUint32(Z_STREAM.availIn, packed.length, true);
      view.setBigUint64(Z_STREAM.nextOut, BigInt(place(into, into, 0)), true);
      view.setUint32(Z_STREAM.availOut, into.length, true);
    },
    run: ({ memory }) => inflate(memory, FINISH),
    runAside: ({ memory }) => callAside(told => inflate.async(memory, FINISH, told)),
  };
}

let opened: Zlib | null | undefined;

function zlib(): Zlib | null {
  if (opened === undefined) {
    try {
      const found = koffi();
      opened = found === null ? null : open(found);
    } catch {
      // A Node that keeps its library to itself.
      opened = null;
    }
  }
  return opened;
}

/** One byte more shows whether anything would follow. */
const BEHIND = new Uint8Array(1);

/** Bytes that came out. Throws for what is damaged, for more than there is room for, and with zlib's header for what is cut off. */
function outcome(
  its: Zlib,
  stream: Stream,
  code: number,
  into: Uint8Array,
  packed: Uint8Array,
  wrapping: Wrapping,
): number {
  const left = stream.view.getUint32(Z_STREAM.availOut, true);
  if (code === STREAM_END) return into.length - left;
  if (code !== OK && code !== BUF_ERROR) throw new RangeError('the compressed data are damaged');
  if (left === 0) {
    const unread = stream.view.getUint32(Z_STREAM.availIn, true);
    its.aim(stream, packed.subarray(packed.length - unread), BEHIND);
    its.run(stream);
    if (stream.view.getUint32(Z_STREAM.availOut, true) === 0)
      throw new RangeError(`more than ${into.length} bytes come out`);
  }
  if (wrapping === 'zlib') throw new RangeError('the compressed data end early');
  return into.length - left;
}

/** The room beyond the length lets the decoder see that the data have ended. */
const optionsFor = (into: Uint8Array, wrapping: Wrapping) => ({
  maxOutputLength: into.length,
  chunkSize: into.length + 64,
  ...(wrapping === 'zlib' ? {} : { finishFlush: constants.Z_SYNC_FLUSH }),
});

function byNode(packed: Uint8Array, into: Uint8Array, wrapping: Wrapping): Promise<number> {
  return new Promise((resolve, reject) => {
    const told = (error: Error | null, out: Uint8Array): void => {
      if (error === null) into.set(out);
      if (error === null) resolve(out.length);
      else reject(error);
    };
    const inflate = wrapping === 'zlib' ? nodeInflate : nodeInflateRaw;
    inflate(packed, optionsFor(into, wrapping), told);
  });
}

/** How long blocks take that are opened in the caller's thread. */
const pace = new Pace();

/**
 * Decompresses `packed` to the start of `into`; gives the length, and what is in `into` behind it is not to be used. What
 * follows the compressed data is ignored. Fails for damage, for more than there is room for, and with zlib's header for
 * what is cut off; nothing in `into` is to be used then. At once while blocks are quick, else on a pool thread.
 */
export function inflateInto(packed: Uint8Array, into: Uint8Array, wrapping: Wrapping): number | Promise<number> {
  const its = zlib();
  if (its === null) return byNode(packed, into, wrapping);
  return pace.isQuick() ? inflateNow(its, packed, into, wrapping) : inflateAside(its, packed, into, wrapping);
}

function inflateNow(its: Zlib, packed: Uint8Array, into: Uint8Array, wrapping: Wrapping): number {
  const began = performance.now();
  const stream = its.take(wrapping);
  try {
    its.aim(stream, packed, into);
    return outcome(its, stream, its.run(stream), into, packed, wrapping);
  } finally {
    its.give(stream);
    pace.took(performance.now() - began);
  }
}

/** As `inflateInto`, in the caller's thread: for one that does nothing else. */
export function inflateSync(packed: Uint8Array, into: Uint8Array, wrapping: Wrapping): number {
  const its = zlib();
  if (its !== null) return inflateNow(its, packed, into, wrapping);
  const inflate = wrapping === 'zlib' ? nodeInflateSync : nodeInflateRawSync;
  const out = inflate(packed, optionsFor(into, wrapping));
  into.set(out);
  return out.length;
}

/** Deflate of nothing. */
const NOTHING = Uint8Array.of(3, 0);

/** Has what the first call would have to find and make. */
export function prepareInflate(): void {
  inflateSync(NOTHING, new Uint8Array(1), 'raw');
}

async function inflateAside(its: Zlib, packed: Uint8Array, into: Uint8Array, wrapping: Wrapping): Promise<number> {
  const stream = its.take(wrapping);
  try {
    its.aim(stream, packed, into);
    return outcome(its, stream, await its.runAside(stream), into, packed, wrapping);
  } finally {
    its.give(stream);
  }
}

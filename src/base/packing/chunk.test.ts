import { hash } from 'node:crypto';
import { deflateRawSync, deflateSync, inflateSync } from 'node:zlib';
import { expect, onTestFinished, test } from 'vitest';
import { snappyEncode } from '../../../formats/aff4/fixtures.ts';
import { adler32 } from '../checksum.ts';
import { Pace } from '../pace.ts';
import { type Chunk, type ChunkDigest, ChunkOpeners, type Method, OTHER_DIGEST, openChunk } from './chunk.ts';

const LENGTH = 32_768;

/** One byte, a match of it as long as the rest but five, five bytes. */
function lz4Of(plain: Uint8Array): Uint8Array {
  const out = [0x1f, plain[0]!, 1, 0];
  let left = plain.length - 6 - 19;
  for (; left >= 255; left -= 255) out.push(255);
  return Uint8Array.from([...out, left, 0x50, ...plain.subarray(-5)]);
}

const PACK: Readonly<Record<Method, (plain: Uint8Array) => Uint8Array>> = {
  zlib: deflateSync,
  deflate: deflateRawSync,
  snappy: snappyEncode,
  lz4: lz4Of,
};
const METHODS = Object.keys(PACK) as Method[];
const DIGESTS: readonly ChunkDigest[] = ['md5', 'sha1', 'sha256', 'sha512', 'blake2b512'];

/** Finds that chunks take long. */
function slow(): Pace {
  const pace = new Pace();
  for (let i = 0; i < 1000; i++) pace.took(1);
  return pace;
}

/** A chunk full of one byte, with one of the digests. */
function made(method: Method, byte: number, needed = LENGTH): { stored: Uint8Array; chunk: Chunk } {
  const plain = new Uint8Array(LENGTH).fill(byte);
  const algorithm = DIGESTS[byte % DIGESTS.length]!;
  const digest = { algorithm, stands: hash(algorithm, plain, 'buffer') };
  return { stored: PACK[method](plain), chunk: { method, length: LENGTH, needed, digest } };
}

test.each(METHODS)('%s: in threads as without, with its faults', async method => {
  const openers = new ChunkOpeners(2, 0, slow());
  onTestFinished(() => openers.end());
  const all = Array.from({ length: 24 }, (_, i) => made(method, i + 1));
  const wrong = { algorithm: 'sha1', stands: new Uint8Array(20) } as const;
  all[7]!.chunk = { ...all[7]!.chunk, digest: wrong };
  all[9]!.stored = all[9]!.stored.subarray(0, 2);
  all[11] = made(method, 12, LENGTH - 512);
  const into = all.map(() => new Uint8Array(LENGTH));
  const fetched = (i: number): Promise<string | null> => {
    const { stored, chunk } = all[i]!;
    return openers.fetch(stored.length, raw => raw.set(stored), chunk, into[i]!);
  };
  const check = (faults: readonly (string | null)[]): void => {
    for (const [i, fault] of faults.entries()) {
      if (i === 7) expect(fault).toBe(OTHER_DIGEST);
      else if (i === 9) expect(fault).toMatch(/^cannot be unpacked|^has \d+ bytes/);
      else {
        expect(fault).toBeNull();
        const end = i === 11 ? LENGTH - 512 : LENGTH;
        expect(into[i]!.every((byte, at) => byte === (at < end ? i + 1 : 0))).toBe(true);
      }
    }
  };
  check(all.map(({ stored, chunk }, i) => openChunk(into[i]!, stored, chunk)));
  const round = async (): Promise<boolean> => {
    let turned = false;
    setImmediate(() => {
      turned = true;
    });
    for (const bytes of into) bytes.fill(0xee);
    check(await Promise.all(all.map((_, i) => fetched(i))));
    return turned;
  };
  // Once a thread has started, the work is its own: the answer comes with a turn of the event loop.
  await expect.poll(round, { timeout: 20_000, interval: 20 }).toBe(true);
  // One alone waits for no thread.
  let turned = false;
  setImmediate(() => {
    turned = true;
  });
  expect(await fetched(0)).toBeNull();
  expect(turned).toBe(false);
});

test('deflate with the header of zlib before it', () => {
  // So long that the header passes for the start of a stored block, and so made that another follows, which is cut off.
  const plain = Uint8Array.from({ length: 0xfefe }, (_, i) => (i * i) >> 5);
  plain.set([0x00, 0xff, 0xff, 0x00, 0x00], 0x101 - 2);
  const sum = Buffer.alloc(4);
  sum.writeUInt32BE(adler32(plain));
  const stored = Buffer.concat([Buffer.from([0x78, 0x01, 0x01, 0xfe, 0xfe, 0x01, 0x01]), plain, sum]);
  expect(Buffer.compare(inflateSync(stored), plain)).toBe(0);
  const chunk: Chunk = { method: 'deflate', length: 65_536, needed: plain.length, digest: null };
  for (const packed of [stored, deflateSync(plain)]) {
    const into = new Uint8Array(65_536);
    expect(openChunk(into, packed, chunk)).toBeNull();
    expect(Buffer.compare(into.subarray(0, plain.length), plain)).toBe(0);
  }
});

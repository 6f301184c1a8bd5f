/** zstd frames whose length is known to be bounded, on pool threads. */
import zlib from 'node:zlib';
import { viewOf } from '../../src/base/struct.ts';

/** What the frame in `packed` holds, at most `limit` bytes. Padding may follow the frame. */
export function decompress(packed: Uint8Array, limit: number): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    // The engine would take padding for another frame.
    const frame = packed.subarray(0, frameLength(packed));
    zlib.zstdDecompress(frame, { maxOutputLength: limit }, (error, out) =>
      error ? reject(error) : resolve(new Uint8Array(out.buffer, out.byteOffset, out.length)),
    );
  });
}

const FRAME_MAGIC = 0xfd2fb528;
/** So many bytes hold any frame header. */
export const FRAME_HEADER = 18;

interface FrameHeader {
  readonly length: number;
  /** null: the header does not say. */
  readonly contentSize: number | null;
  readonly checksum: boolean;
}

/** RFC 8878, section 3.1.1.1; null when these bytes are no frame. */
function frameHeader(bytes: Uint8Array): FrameHeader | null {
  if (bytes.length < FRAME_HEADER) return null;
  const view = viewOf(bytes);
  if (view.getUint32(0, true) !== FRAME_MAGIC) return null;
  const descriptor = bytes[4]!;
  const singleSegment = (descriptor & 0x20) !== 0;
  const at = 5 + (singleSegment ? 0 : 1) + [0, 1, 2, 4][descriptor & 3]!;
  const checksum = (descriptor & 4) !== 0;
  switch (descriptor >> 6) {
    case 0:
      return singleSegment
        ? { length: at + 1, contentSize: view.getUint8(at), checksum }
        : { length: at, contentSize: null, checksum };
    case 1:
      return { length: at + 2, contentSize: view.getUint16(at, true) + 256, checksum };
    case 2:
      return { length: at + 4, contentSize: view.getUint32(at, true), checksum };
    default: {
      const size = view.getUint32(at + 4, true) * 0x1_0000_0000 + view.getUint32(at, true);
      return { length: at + 8, contentSize: Number.isSafeInteger(size) ? size : null, checksum };
    }
  }
}

/** Length that a frame gives for its content; null when it gives none. */
export const frameContentSize = (head: Uint8Array): number | null => frameHeader(head)?.contentSize ?? null;

const RLE = 1;

/** Where the frame ends (RFC 8878, section 3.1.1.2), at most the end of `packed`; that it is whole is not said. */
function frameLength(packed: Uint8Array): number {
  // The shortest frame is shorter than the longest header.
  const padded = packed.length < FRAME_HEADER ? new Uint8Array(FRAME_HEADER) : packed;
  if (padded !== packed) padded.set(packed);
  const header = frameHeader(padded);
  if (header === null) return packed.length;
  for (let at = header.length; at + 3 <= packed.length; ) {
    const block = packed[at]! + packed[at + 1]! * 256 + packed[at + 2]! * 65_536;
    const size = Math.floor(block / 8);
    at += 3 + (((block >> 1) & 3) === RLE ? 1 : size);
    if ((block & 1) === 1) return Math.min(packed.length, at + (header.checksum ? 4 : 0));
  }
  return packed.length;
}

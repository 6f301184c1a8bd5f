/** One stored block made readable: `src/libs/restore/restore.cpp` of github.com/macrium/mrimgx_file_layout, `readBlock`. */
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { digestOf } from '../../src/base/digest.ts';
import { ImageError } from '../../src/base/errors.ts';
import { Rooms } from '../../src/base/rooms.ts';
import { unzstdInto } from '../../src/base/zstd.ts';
import { FRAME_HEADER, frameContentSize } from './codec.ts';
import type { Files, Member } from './files.ts';
import type { Key, Place } from './keys.ts';
import { corrupt, type Element } from './structs.ts';

export interface Origin {
  readonly files: Files;
  /** The file with the index. */
  readonly name: string;
  holder(fileNumber: number): Member | null;
  readonly key: Key | null;
}

/** A frame that did not shrink is a little longer than what it holds, and encryption pads it. */
const mostStored = (plain: Bytes): Bytes => plain + Math.ceil(plain / 128) + 1024;

interface Stored {
  readonly source: ByteSource;
  readonly compressed: boolean;
  /** null: not encrypted. */
  readonly key: Key | null;
}

function storedIn(origin: Origin, { fileAt, length, fileNumber }: Element, what: string, limit: Bytes): Stored {
  const member = origin.holder(fileNumber);
  if (member === null) {
    const message = `${what} lies in file number ${fileNumber} of the backup set, which is missing`;
    throw new ImageError('broken-chain', message, { file: origin.name });
  }
  const { name, rootAt, description } = member;
  if (length > mostStored(limit)) throw corrupt(`${what} has ${length} bytes for ${limit}`, name, fileAt);
  if (fileAt + length > rootAt) throw corrupt(`${what} reaches past the data of the file`, name, fileAt);
  const encrypted = description.encryption !== null;
  if (encrypted && origin.key === null)
    throw new ImageError('locked', `${what} is encrypted`, { file: name, at: fileAt });
  return {
    source: origin.files.source(member),
    compressed: description.compressed,
    key: encrypted ? origin.key : null,
  };
}

function decrypted(key: Key | null, stored: Uint8Array, place: Place, fail: (why: string) => ImageError): Uint8Array {
  if (key === null) return stored;
  if (stored.length % 16 !== 0) throw fail('is encrypted and not whole');
  return key.decrypt(stored, place);
}

export const ROOMS = new Rooms(16 * 2 ** 20);

/**
 * Puts the content of one block at the start of `into`, which has the most that it may be; gives its length. Its MD5 holds.
 * Faults: 'broken-chain' for a missing file, 'corrupt' with the file and offset of the stored block; nothing in `into` is to
 * be used then.
 */
export async function readBlock(origin: Origin, element: Element, place: Place, into: Uint8Array): Promise<Bytes> {
  const limit = into.length;
  const what = `block ${place.block} of partition ${place.partition} on disk ${place.disk}`;
  const { source, compressed, key } = storedIn(origin, element, what, limit);
  const fail = (why: string, cause?: unknown): ImageError =>
    new ImageError('corrupt', `${what} ${why}`, { file: source.name, at: element.fileAt }, { cause });
  const length = await ROOMS.lend(element.length, async stored => {
    await source.read(stored, element.fileAt);
    const packed = decrypted(key, stored, place, fail);
    if (compressed) {
      try {
        return await unzstdInto(packed, into);
      } catch (cause) {
        throw fail('does not decompress', cause);
      }
    }
    if (packed.length > limit) throw fail(`has ${packed.length} bytes, more than ${limit}`);
    into.set(packed);
    return packed.length;
  });
  // The reference code checks compressed blocks only; writers give the MD5 of every block.
  const digest = await digestOf('md5', into.subarray(0, length));
  if (Buffer.compare(digest, element.md5) !== 0) throw fail('fails its MD5');
  return length;
}

/** Length of a block's content, from its first bytes. */
export async function contentLength(origin: Origin, element: Element, place: Place, limit: Bytes): Promise<Bytes> {
  if (element.length === 0) return 0;
  const what = `block ${place.block} of the reserved sectors of partition ${place.partition} on disk ${place.disk}`;
  const { source, compressed, key } = storedIn(origin, element, what, limit);
  if (!compressed) return element.length;
  const head = new Uint8Array(Math.min(element.length, key === null ? FRAME_HEADER : 32));
  await source.read(head, element.fileAt);
  const fail = (why: string): ImageError => corrupt(`${what} ${why}`, source.name, element.fileAt);
  const frame = new Uint8Array(32);
  frame.set(decrypted(key, head, place, fail));
  const size = frameContentSize(frame);
  if (size === null || size > limit) throw fail('does not say how long it is');
  return size;
}

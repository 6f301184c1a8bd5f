/** Lists of metadata blocks, and what they hold. */
import { createHash } from 'node:crypto';
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { decompress } from './codec.ts';
import type { Key } from './keys.ts';
import { BlockHeader, COMPRESSED, corrupt, ENCRYPTED, Footer, KNOWN_FLAGS, LAST_BLOCK, MAGIC } from './structs.ts';

export interface MetadataBlock {
  /** `$JSON`, `$INDEX`, … */
  readonly name: string;
  /** Where the header stands; the payload follows it. */
  readonly at: Bytes;
  readonly payloadAt: Bytes;
  readonly length: Bytes;
  /** Of the payload as it is stored. */
  readonly md5: Uint8Array;
  readonly flags: number;
}

export interface MetadataList {
  readonly blocks: readonly MetadataBlock[];
  /** Where the list ends. */
  readonly end: Bytes;
}

/** Kinds of blocks that are known number ten; a list without an end must not be followed through the whole file. */
const MOST_BLOCKS = 64;

/** Reflect 8 and older used this name for a format of its own; the betas of X did so too. */
const OLD_NAME = /\.mr(img|bak)$/i;

function noFooter(file: string, at: Bytes): ImageError {
  return OLD_NAME.test(file)
    ? new ImageError('unsupported', 'an image of Macrium Reflect 8 or older, which cannot be read', { file, at })
    : corrupt(`the file is cut off: it does not end with ${MAGIC}`, file, at);
}

/** Where the list with the description starts. */
export async function readFooter(source: ByteSource): Promise<Bytes> {
  const at = source.size - Footer.size;
  if (at < 0) throw noFooter(source.name, 0);
  const raw = new Uint8Array(Footer.size);
  await source.read(raw, at);
  if (!endsAsImage(raw)) throw noFooter(source.name, at);
  const { rootAt } = Footer.parse(raw, 0, source.name);
  if (rootAt + BlockHeader.size <= at) return rootAt;
  throw corrupt('the description lies outside the file', source.name, at, 'first_metadata_block_header');
}

/** Whether the last bytes of a file are those of an image. */
export const endsAsImage = (tail: Uint8Array): boolean =>
  tail.length >= Footer.size && Buffer.from(tail.subarray(tail.length - MAGIC.length)).toString('latin1') === MAGIC;

/** Follows a list from header to header. Each one lies inside the file. */
export async function readList(source: ByteSource, at: Bytes): Promise<MetadataList> {
  const blocks: MetadataBlock[] = [];
  const limit = source.size - Footer.size;
  for (let next = at; ; ) {
    if (next + BlockHeader.size > limit) throw corrupt('a metadata block lies outside the file', source.name, next);
    if (blocks.length >= MOST_BLOCKS) throw corrupt('a list of metadata blocks does not end', source.name, at);
    const raw = new Uint8Array(BlockHeader.size);
    await source.read(raw, next);
    const { name, length, md5, flags } = BlockHeader.parse(raw, 0, source.name);
    const text = Buffer.from(name).toString('latin1').trimEnd();
    if (!/^\$[A-Z0-9]{1,7}$/.test(text)) throw corrupt('a metadata block has no name', source.name, next, 'block_name');
    const payloadAt = next + BlockHeader.size;
    if (payloadAt + length > limit) throw corrupt(`${text} reaches past the end of the file`, source.name, next);
    blocks.push({ name: text, at: next, payloadAt, length, md5, flags });
    next = payloadAt + length;
    if ((flags & LAST_BLOCK) !== 0) return { blocks, end: next };
  }
}

export const find = (list: MetadataList, name: string): MetadataBlock | undefined =>
  list.blocks.find(block => block.name === name);

export function checkFlags(block: MetadataBlock, file: string): void {
  if ((block.flags & ~KNOWN_FLAGS) === 0) return;
  const message = `${block.name} has flags 0x${block.flags.toString(16)}, which are not known`;
  throw new ImageError('unsupported', message, { file, at: block.at, field: 'flags' });
}

/** The payload, checked, decrypted and decompressed; at most `limit` bytes. `key` null: an encrypted one is 'locked'. */
export async function readPayload(
  source: ByteSource,
  block: MetadataBlock,
  limit: Bytes,
  key: Key | null,
): Promise<Uint8Array> {
  const { name, at, length, flags } = block;
  checkFlags(block, source.name);
  // An empty block has an MD5 of zeros, and may be flagged as compressed all the same.
  if (length === 0) return new Uint8Array(0);
  if (length > limit + 4096) throw corrupt(`${name} has ${length} bytes; at most ${limit} are read`, source.name, at);
  let payload: Uint8Array = new Uint8Array(length);
  await source.read(payload, block.payloadAt);
  if (!createHash('md5').update(payload).digest().equals(block.md5))
    throw corrupt(`${name} fails its MD5`, source.name, block.payloadAt);
  if ((flags & ENCRYPTED) !== 0) {
    if (key === null) throw new ImageError('locked', `${name} is encrypted`, { file: source.name, at });
    if (length % 16 !== 0) throw corrupt(`${name} is encrypted and not whole`, source.name, at);
    payload = key.decryptMetadata(payload);
  }
  if ((flags & COMPRESSED) === 0) return payload;
  try {
    return await decompress(payload, limit);
  } catch (cause) {
    throw new ImageError('corrupt', `${name} does not decompress`, { file: source.name, at }, { cause });
  }
}

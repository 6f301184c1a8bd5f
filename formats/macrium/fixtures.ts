/**
 * Image files written from the description of the format (`docs/FILE_LAYOUT.md`, `docs/ENCRYPTION.md` of
 * github.com/macrium/mrimgx_file_layout), for tests: shapes that no sample at hand has. Shares no code with the reader.
 */
import { createCipheriv, createHash, createHmac, pbkdf2Sync } from 'node:crypto';
import zlib from 'node:zlib';
import type { WritableStore } from '../../src/base/contracts.ts';

/** Where a block was put, so that a later file can point at it. */
export interface Stored {
  readonly at: number;
  readonly md5: Uint8Array;
  readonly length: number;
  readonly file: number;
}

export interface PartitionSpec {
  readonly number?: number;
  readonly start: number;
  readonly length: number;
  readonly blockSize?: number;
  readonly blockCount: number;
  /** Distance of block 0 from the start; reserved sectors lie before it. */
  readonly lcn0?: number;
  readonly bootSectorOffset?: number;
  readonly fileSystem?: string;
  readonly reserved?: readonly (Uint8Array | Stored)[];
  readonly reservedLength?: number;
  /** Content, zeros in a delta, or a block of an older file. In the order in which a delta index lists them. */
  readonly blocks: ReadonlyMap<number, Uint8Array | 'zero' | Stored>;
}

export interface DiskSpec {
  readonly number?: number;
  readonly format: 'mbr' | 'gpt' | 'dynamic';
  readonly sectorSize?: number;
  readonly size: number;
  readonly bootTrack: Uint8Array;
  /** `$EPT` as it is stored. */
  readonly extended?: Uint8Array;
  readonly partitions: readonly PartitionSpec[];
}

export interface FileSpec {
  readonly number: number;
  readonly increment?: number;
  readonly delta?: boolean;
  readonly merged?: readonly number[];
  readonly split?: boolean;
  readonly type?: 'full' | 'inc' | 'diff';
  readonly time?: number;
  readonly compression?: 'none' | 'medium';
  readonly encryption?: { readonly bits: 128 | 192 | 256; readonly password: string; readonly iterations?: number };
  /** Names of the files up to this one, by number. Without it there is no history. */
  readonly history?: ReadonlyMap<number, string>;
  readonly disks: readonly DiskSpec[];
  /** `$INDEX` of a partition without blocks is 4 bytes long although 8 are there, as in files of the product. */
  readonly shortIndex?: boolean;
  /** Encrypts the boot tracks too, as the flag of a metadata block allows. */
  readonly encryptMetadata?: boolean;
  /** Changes the description before it is written. */
  readonly edit?: (description: Record<string, never>) => void;
}

export const IMAGE_ID = '0123456789ABCDEF';
const ITERATIONS = 1000;

export interface Piece {
  readonly at: number;
  readonly bytes: Uint8Array;
}

export interface Built {
  readonly size: number;
  readonly pieces: readonly Piece[];
  /** Per disk and partition where each block went. */
  readonly stored: readonly (readonly ReadonlyMap<number, Stored>[])[];
  readonly reserved: readonly (readonly (readonly Stored[])[])[];
  /** Where each partition's `$INDEX` payload lies. */
  readonly indexes: readonly { readonly at: number; readonly length: number }[];
}

const md5 = (bytes: Uint8Array): Uint8Array => createHash('md5').update(bytes).digest();

function cipher({ encryption }: FileSpec) {
  if (encryption === undefined) return null;
  const id = Buffer.from(IMAGE_ID, 'hex');
  const salt = createHash('sha256').update(id).digest();
  const iterations = encryption.iterations ?? ITERATIONS;
  const key = pbkdf2Sync(encryption.password, salt, iterations, 32, 'sha256');
  const data = key.subarray(0, encryption.bits / 8);
  const pad = (bytes: Uint8Array): Uint8Array =>
    Buffer.concat([bytes, Buffer.alloc((16 - (bytes.length % 16)) % 16, 0xa5)]);
  return {
    hmac: createHmac('sha256', key).update('').digest('hex'),
    iterations,
    block(plain: Uint8Array, disk: number, partition: number, index: number): Uint8Array {
      const seed = Buffer.alloc(16);
      id.copy(seed);
      seed.writeUInt16LE(disk, 8);
      seed.writeUInt16LE(partition, 10);
      seed.writeUInt32LE(index, 12);
      const vectorKey = createHash('sha256').update(key).digest();
      const iv = createCipheriv('aes-256-ecb', vectorKey, null).setAutoPadding(false).update(seed);
      return createCipheriv(`aes-${encryption.bits}-cbc`, data, iv).setAutoPadding(false).update(pad(plain));
    },
    metadata: (plain: Uint8Array): Uint8Array =>
      createCipheriv(`aes-${encryption.bits}-ecb`, data, null).setAutoPadding(false).update(pad(plain)),
  };
}

type Flags = { last?: boolean; packed?: boolean; encrypted?: boolean };

function headerOf(name: string, length: number, digest: Uint8Array, flags: Flags): Uint8Array {
  const header = Buffer.alloc(32);
  header.write(name.padEnd(8), 'latin1');
  header.writeUInt32LE(length, 8);
  header.set(digest, 12);
  header[28] = (flags.last ? 1 : 0) + (flags.packed ? 2 : 0) + (flags.encrypted ? 4 : 0);
  return header;
}

const isStored = (block: unknown): block is Stored => typeof block === 'object' && block !== null && 'md5' in block;
const ZERO: Stored = { at: 0, md5: new Uint8Array(16), length: 0, file: 0 };

function elementBytes(stored: Stored, block: number | null): Uint8Array {
  const raw = Buffer.alloc(block === null ? 30 : 34);
  raw.writeBigUInt64LE(BigInt(stored.at));
  raw.set(stored.md5, 8);
  raw.writeUInt32LE(stored.length, 24);
  raw.writeUInt16LE(stored.file, 28);
  if (block !== null) raw.writeUInt32LE(block, 30);
  return raw;
}

/** MD5 of `length` bytes that are zeros but for the pieces, which are in order. */
function sparseMd5(length: number, pieces: readonly Piece[]): Uint8Array {
  const hash = createHash('md5');
  const zeros = new Uint8Array(1_048_576);
  let at = 0;
  const skipTo = (end: number): void => {
    for (; at < end; at += Math.min(zeros.length, end - at))
      hash.update(zeros.subarray(0, Math.min(zeros.length, end - at)));
  };
  for (const piece of pieces) {
    skipTo(piece.at);
    hash.update(piece.bytes);
    at += piece.bytes.length;
  }
  skipTo(length);
  return hash.digest();
}

const u32 = (n: number): Uint8Array => {
  const raw = Buffer.alloc(4);
  raw.writeUInt32LE(n);
  return raw;
};

/** The payload of `$INDEX`, relative to its start. */
function indexOf(
  spec: FileSpec,
  partition: PartitionSpec,
  blocks: ReadonlyMap<number, Stored>,
  reserved: readonly Stored[],
) {
  const pieces: Piece[] = [{ at: 0, bytes: u32(reserved.length) }];
  for (const [i, stored] of reserved.entries()) pieces.push({ at: 4 + i * 30, bytes: elementBytes(stored, null) });
  const second = 4 + reserved.length * 30;
  if (spec.delta) {
    pieces.push({ at: second, bytes: u32(blocks.size) });
    let at = second + 4;
    for (const [block, stored] of blocks) {
      pieces.push({ at, bytes: elementBytes(stored, block) });
      at += 34;
    }
    return { length: at, pieces };
  }
  pieces.push({ at: second, bytes: u32(partition.blockCount) });
  for (const [block, stored] of [...blocks].sort(([a], [b]) => a - b))
    pieces.push({ at: second + 4 + block * 30, bytes: elementBytes(stored, null) });
  return { length: second + 4 + partition.blockCount * 30, pieces };
}

function describe(spec: FileSpec, indexAt: number, crypt: Cipher): unknown {
  const history = [...(spec.history ?? [])].map(([file_number, name]) => ({
    file_number,
    file_name: `X:\\backup\\${name}`,
  }));
  return {
    _header: {
      imageid: IMAGE_ID,
      file_number: spec.number,
      increment_number: spec.increment ?? spec.number,
      delta_index: spec.delta ?? false,
      merged_files: spec.merged ?? [],
      split_file: spec.split ?? false,
      index_file_position: indexAt,
      backup_type: spec.type ?? (spec.number === 0 ? 'full' : 'inc'),
      backup_format: 'partition',
      backup_time: spec.time ?? 1_700_000_000 + spec.number * 86_400,
      netbios_name: 'OFFICE',
      json_version: 1,
    },
    _compression: { compression_level: spec.compression ?? 'medium', compression_method: 'zstd' },
    _encryption:
      spec.encryption === undefined
        ? { enable: false, key_iterations: 0 }
        : {
            enable: true,
            aes_type: `aes-${spec.encryption.bits}`,
            key_derivation: 'pbkdf2',
            key_iterations: crypt!.iterations,
            hmac: crypt!.hmac,
          },
    disks: spec.disks.map((disk, i) => ({
      _header: { disk_format: disk.format, disk_number: disk.number ?? i },
      _geometry: { bytes_per_sector: disk.sectorSize ?? 512, disk_size: disk.size },
      partitions: disk.partitions.map((partition, j) => ({
        _header: {
          block_size: partition.blockSize ?? 65_536,
          block_count: partition.blockCount,
          partition_number: partition.number ?? j + 1,
          ...(spec.history === undefined ? {} : { file_history: history }),
        },
        _geometry: {
          start: partition.start,
          end: partition.start + partition.length - 1,
          length: partition.length,
          boot_sector_offset: partition.bootSectorOffset ?? 0,
        },
        _file_system: {
          type: partition.fileSystem ?? 'NTFS',
          start: partition.start,
          lcn0_offset: partition.start + (partition.lcn0 ?? 0),
          reserved_sectors_byte_length: partition.reservedLength ?? 0,
        },
      })),
    })),
  };
}

/** What was stored where. */
const contents = new WeakMap<Stored, Uint8Array>();

/** A file that grows at its end. */
function output() {
  const pieces: Piece[] = [];
  let end = 0;
  const put = (bytes: Uint8Array): number => {
    const at = end;
    pieces.push({ at, bytes });
    end += bytes.length;
    return at;
  };
  return {
    pieces,
    end: () => end,
    align() {
      end = Math.ceil(end / 4096) * 4096;
    },
    put,
    putBlock(name: string, payload: Uint8Array, flags: Flags) {
      put(headerOf(name, payload.length, payload.length === 0 ? new Uint8Array(16) : md5(payload), flags));
      put(payload);
    },
    /** Pieces of something `length` long, zeros between them. */
    place(some: readonly Piece[], length: number): number {
      const at = end;
      for (const piece of some) pieces.push({ at: at + piece.at, bytes: piece.bytes });
      end += length;
      return at;
    },
  };
}
type Output = ReturnType<typeof output>;
type Cipher = ReturnType<typeof cipher>;

function storeDisks(spec: FileSpec, out: Output, crypt: Cipher) {
  const store = (plain: Uint8Array, disk: number, partition: number, index: number): Stored => {
    const packed = (spec.compression ?? 'medium') === 'none' ? plain : zlib.zstdCompressSync(plain);
    const bytes = crypt === null ? packed : crypt.block(packed, disk, partition, index);
    const place = { at: out.put(bytes), md5: md5(plain), length: bytes.length, file: spec.number };
    contents.set(place, plain);
    return place;
  };
  return spec.disks.map((disk, i) =>
    disk.partitions.map((partition, j) => {
      const [d, p] = [disk.number ?? i, partition.number ?? j + 1];
      const reserved = (partition.reserved ?? []).map((block, n) => (isStored(block) ? block : store(block, d, p, n)));
      const blocks = new Map<number, Stored>();
      for (const [block, content] of partition.blocks)
        blocks.set(block, content === 'zero' ? ZERO : isStored(content) ? content : store(content, d, p, block));
      return { partition, reserved, blocks };
    }),
  );
}

/** The metadata of all disks; where each index lies. */
function putMetadata(spec: FileSpec, out: Output, crypt: Cipher, stored: ReturnType<typeof storeDisks>) {
  const indexes: { at: number; length: number }[] = [];
  for (const [i, disk] of spec.disks.entries()) {
    const encrypted = spec.encryptMetadata === true;
    const track = encrypted ? crypt!.metadata(zlib.zstdCompressSync(disk.bootTrack)) : disk.bootTrack;
    out.putBlock('$TRACK0', track, { last: disk.extended === undefined, packed: encrypted, encrypted });
    if (disk.extended !== undefined) out.putBlock('$EPT', disk.extended, { last: true });
    for (const { partition, reserved, blocks } of stored[i]!) {
      out.putBlock('$BITMAP', new Uint8Array(0), { packed: true });
      const { length, pieces } = indexOf(spec, partition, blocks, reserved);
      const short = spec.shortIndex === true && length === 8;
      const digest = short ? md5(new Uint8Array(4)) : sparseMd5(length, pieces);
      out.put(headerOf('$INDEX', short ? 4 : length, digest, { last: true }));
      indexes.push({ at: out.place(pieces, length), length });
    }
  }
  return indexes;
}

/** Lays a file out. The pieces are in order; between them are zeros. */
export function buildFile(spec: FileSpec): Built {
  const crypt = cipher(spec);
  const out = output();
  const stored = storeDisks(spec, out, crypt);
  out.align();
  const indexAt = out.end();
  const indexes = spec.split ? [] : putMetadata(spec, out, crypt, stored);
  const rootAt = out.end();
  const description = describe(spec, indexAt, crypt);
  spec.edit?.(description as Record<string, never>);
  out.putBlock('$JSON', zlib.zstdCompressSync(Buffer.from(JSON.stringify(description))), { packed: true });
  out.putBlock('$AUXDATA', Buffer.alloc(32, 7), { last: true });
  const footer = Buffer.alloc(20);
  footer.writeBigUInt64LE(BigInt(rootAt));
  footer.write('MACRIUM_FILE', 8, 'latin1');
  out.put(footer);
  return {
    size: out.end(),
    pieces: out.pieces,
    stored: stored.map(disk => disk.map(({ blocks }) => blocks)),
    reserved: stored.map(disk => disk.map(({ reserved }) => reserved)),
    indexes,
  };
}

export function bytesOf(built: Built): Uint8Array {
  const bytes = new Uint8Array(built.size);
  for (const piece of built.pieces) bytes.set(piece.bytes, piece.at);
  return bytes;
}

/** Puts the file into a store, with holes where the store has them. */
export async function put(built: Built, store: WritableStore, name: string): Promise<void> {
  await using file = await store.create(name);
  for (const { at, bytes } of built.pieces) await file.write(bytes, at);
  await file.truncate(built.size);
}

/** Content that is told apart from any other by its seed; compressible, or not. */
export function content(length: number, seed: number, compressible = true): Uint8Array {
  const out = new Uint8Array(length);
  let state = seed + 1;
  for (let i = 0; i < length; i++) {
    if (!compressible || i % 16 === 0) state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    out[i] = 1 + ((state >>> 24) % 255);
  }
  return out;
}

/** What a block holds; null for zeros. */
export const plainOf = (block: Uint8Array | 'zero' | Stored): Uint8Array | null =>
  block === 'zero' ? null : isStored(block) ? (contents.get(block) ?? null) : block;

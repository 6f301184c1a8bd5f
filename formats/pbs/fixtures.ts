/** Writes datastores for tests, after proxmox-backup, docs/file-formats.rst, apart from the code that reads them. */
import { createCipheriv, createHash, createHmac, pbkdf2Sync } from 'node:crypto';
import { crc32, zstdCompressSync } from 'node:zlib';
import { backupKey } from './keys.ts';

export type Files = Record<string, Uint8Array>;

const sha256 = (...parts: readonly Uint8Array[]): Buffer => {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest();
};

/** A blob, packed where that makes it shorter. The IV is made from the content, so that files are the same each time. */
export function encodeBlob(data: Uint8Array, key: Uint8Array | null): Buffer {
  const packed = zstdCompressSync(data);
  const isPacked = packed.length < data.length;
  const content = isPacked ? packed : data;
  const crc = Buffer.alloc(4);
  if (key === null) {
    crc.writeUInt32LE(crc32(content));
    return Buffer.concat([Buffer.from(isPacked ? '31b958426fb6a37f' : '42ab3807be8370a1', 'hex'), crc, content]);
  }
  const iv = sha256(data).subarray(0, 16);
  const cipher = createCipheriv('aes-256-gcm', key, iv);
  const sealed = Buffer.concat([cipher.update(content), cipher.final()]);
  crc.writeUInt32LE(crc32(sealed));
  const magic = Buffer.from(isPacked ? 'e6591bbf0bbfd80b' : '7b6785be222d4cf0', 'hex');
  return Buffer.concat([magic, crc, iv, cipher.getAuthTag(), sealed]);
}

export interface FixtureDisk {
  readonly filename: string;
  readonly content: Uint8Array;
  /** Of a dynamic index: lengths of the chunks, repeated. */
  readonly cuts?: readonly number[];
}

export interface Fixture {
  readonly folder: string;
  readonly root?: string;
  readonly chunkSize: number;
  readonly key?: Uint8Array;
  readonly disks: readonly FixtureDisk[];
  readonly config?: string;
  readonly named?: boolean;
}

function chunksOf({ content, cuts }: FixtureDisk, chunkSize: number): readonly Uint8Array[] {
  const chunks: Uint8Array[] = [];
  for (let at = 0, i = 0; at < content.length; i++) {
    const length = cuts?.[i % cuts.length] ?? chunkSize;
    chunks.push(content.subarray(at, at + length));
    at += length;
  }
  return chunks;
}

function indexOf(disk: FixtureDisk, digests: readonly Buffer[], chunks: readonly Uint8Array[], chunkSize: number) {
  const header = Buffer.alloc(4096);
  const isFixed = disk.filename.endsWith('.fidx');
  let end = 0;
  const table = Buffer.concat(
    digests.flatMap((digest, i) => {
      end += chunks[i]!.length;
      const place = Buffer.alloc(8);
      place.writeBigUInt64LE(BigInt(end));
      return isFixed ? [digest] : [place, digest];
    }),
  );
  const csum = sha256(table);
  header.set(Buffer.from(isFixed ? '2f7f41ed91fd0fcd' : '1c914ea519bab3cd', 'hex'));
  header.set(sha256(Buffer.from(disk.filename)).subarray(0, 16), 8);
  header.set(csum, 32);
  if (isFixed) {
    header.writeBigUInt64LE(BigInt(disk.content.length), 64);
    header.writeBigUInt64LE(BigInt(chunkSize), 72);
  }
  return { file: Buffer.concat([header, table]), csum };
}

/** Adds one snapshot to `files`. */
export async function addSnapshot(files: Files, spec: Fixture): Promise<void> {
  const { folder, root = '', chunkSize, key = null } = spec;
  const idKey = key === null ? new Uint8Array(0) : pbkdf2Sync(key, '_id_key', 10, 32, 'sha256');
  const listed: object[] = [];
  const mode = key === null ? 'none' : 'encrypt';
  for (const disk of spec.disks) {
    const chunks = chunksOf(disk, chunkSize);
    const digests = chunks.map(chunk => sha256(chunk, idKey));
    for (const [i, chunk] of chunks.entries()) {
      const name = digests[i]!.toString('hex');
      files[`${root}.chunks/${name.slice(0, 4)}/${name}`] = encodeBlob(chunk, key);
    }
    const { file, csum } = indexOf(disk, digests, chunks, chunkSize);
    files[`${folder}/${disk.filename}`] = file;
    listed.push({ filename: disk.filename, 'crypt-mode': mode, size: disk.content.length, csum: csum.toString('hex') });
  }
  if (spec.config !== undefined) {
    const blob = encodeBlob(Buffer.from(spec.config), key);
    files[`${folder}/qemu-server.conf.blob`] = blob;
    const csum = sha256(blob).toString('hex');
    listed.push({ filename: 'qemu-server.conf.blob', 'crypt-mode': mode, size: blob.length, csum });
  }
  const [type, id, time] = folder.split('/').slice(-3);
  // In the order of their names: what is signed is exactly this text.
  const sorted = listed.map(entry => Object.fromEntries(Object.entries(entry).sort(([a], [b]) => (a < b ? -1 : 1))));
  const signed = {
    'backup-id': id,
    'backup-time': new Date(time!).getTime() / 1000,
    'backup-type': type,
    files: sorted,
  };
  const named = key !== null && spec.named === true;
  const unprotected = named ? { 'key-fingerprint': (await backupKey(key)).fingerprint } : {};
  const signature = named ? createHmac('sha256', idKey).update(JSON.stringify(signed)).digest('hex') : null;
  const manifest = { ...signed, signature, unprotected };
  files[`${folder}/index.json.blob`] = encodeBlob(Buffer.from(JSON.stringify(manifest, null, 2)), null);
}

/** Content of a disk: data, zeros, data that cannot be packed. */
export function diskContent(size: number, seed: number): Uint8Array<ArrayBuffer> {
  const content = new Uint8Array(size);
  let state = seed;
  for (let at = 0; at < size; at++) {
    const part = Math.floor(at / 50_000) % 4;
    if (part === 1 || part === 2) continue;
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    content[at] = part === 0 ? state >>> 24 : 65 + (at % 7);
  }
  return content;
}

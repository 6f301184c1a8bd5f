/** BitLocker volumes, written from the description of the format: what Windows makes of a plain volume. */
import { createCipheriv, createHash, hash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { noise } from './volume-images.ts';

export const AREA = 65_536;
const HEADER = 8192;
const ROUNDS = 1_048_576;
const ID = '3bd66749292ed84a8399f6a339e3d001';

export type Method = 'elephant-128' | 'elephant-256' | 'cbc-128' | 'cbc-256' | 'xts-128' | 'xts-256';
const METHODS: Readonly<Record<Method, readonly [number: number, keyBytes: number]>> = {
  'elephant-128': [0x8000, 64],
  'elephant-256': [0x8001, 64],
  'cbc-128': [0x8002, 16],
  'cbc-256': [0x8003, 32],
  'xts-128': [0x8004, 32],
  'xts-256': [0x8005, 64],
};

export const PASSPHRASE = 'correct horse';
/** Each group is a multiple of 11, of a number of 16 bits. */
export const RECOVERY = '000011-000022-012342-110000-720885-340560-022000-550011';

const sha256 = (data: Uint8Array): Buffer => createHash('sha256').update(data).digest();

function stretch(secret: Buffer, salt: Buffer): Buffer {
  const state = Buffer.concat([Buffer.alloc(32), secret, salt, Buffer.alloc(8)]);
  for (let round = 0; round < ROUNDS; round++) {
    state.writeUInt32LE(round, 80);
    state.set(hash('sha256', state, 'buffer'));
  }
  return state.subarray(0, 32);
}

const ecb = (key: Uint8Array, block: Uint8Array): Buffer =>
  createCipheriv(`aes-${key.length * 8}-ecb`, key, null)
    .setAutoPadding(false)
    .update(block);

const numberBlock = (number: number, last = 0): Buffer => {
  const block = Buffer.alloc(16);
  block.writeBigUInt64LE(BigInt(number));
  block[15] = last;
  return block;
};

const turned = (value: number, by: number): number => (by === 0 ? value : (value << by) | (value >>> (32 - by)));

/** Both diffusers, in the direction of enciphering. */
function diffuse(words: Int32Array): void {
  const n = words.length;
  for (let i = 5 * n - 1; i >= 0; i--) {
    const at = i % n;
    words[at]! -= words[(at + n - 2) % n]! ^ turned(words[(at + n - 5) % n]!, [9, 0, 13, 0][at % 4]!);
  }
  for (let i = 3 * n - 1; i >= 0; i--) {
    const at = i % n;
    words[at]! -= words[(at + 2) % n]! ^ turned(words[(at + 5) % n]!, [0, 10, 0, 25][at % 4]!);
  }
}

function cbc(key: Uint8Array, sector: Uint8Array, at: number): Buffer {
  const cipher = createCipheriv(`aes-${key.length * 8}-cbc`, key, ecb(key, numberBlock(at)));
  return cipher.setAutoPadding(false).update(sector);
}

/** One sector; `at`: where it lies on the volume. */
function enciphered(method: Method, key: Buffer, sector: Uint8Array, at: number): Buffer {
  const [kind, bits] = method.split('-');
  const bytes = Number(bits) / 8;
  if (kind === 'xts') {
    const number = numberBlock(at / sector.length);
    return createCipheriv(`aes-${bits}-xts`, key, number).setAutoPadding(false).update(sector);
  }
  if (kind === 'cbc') return cbc(key, sector, at);
  const tweak = key.subarray(32, 32 + bytes);
  const mask = Buffer.concat([ecb(tweak, numberBlock(at)), ecb(tweak, numberBlock(at, 0x80))]);
  const mixed = new Int32Array(sector.length / 4);
  const mixedBytes = new Uint8Array(mixed.buffer);
  for (let i = 0; i < sector.length; i++) mixedBytes[i] = sector[i]! ^ mask[i % 32]!;
  diffuse(mixed);
  return cbc(key.subarray(0, bytes), mixedBytes, at);
}

function entry(type: number, value: number, ...data: readonly Uint8Array[]): Buffer {
  const head = Buffer.alloc(8);
  const body = Buffer.concat(data);
  head.writeUInt16LE(8 + body.length, 0);
  head.writeUInt16LE(type, 2);
  head.writeUInt16LE(value, 4);
  head.writeUInt16LE(1, 6);
  return Buffer.concat([head, body]);
}

const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};

let nonces = 0;

/** A key that is enciphered with another: `type` of the entry is that of what it opens. */
function wrapped(type: number, method: number, key: Uint8Array, by: Uint8Array): Buffer {
  const plain = Buffer.concat([u32(12 + key.length), u32(1), u32(method), key]);
  const nonce = Buffer.alloc(12);
  nonce.writeUInt32LE(0x1234, 0);
  nonce.writeUInt32LE(++nonces, 8);
  const cipher = createCipheriv('aes-256-ccm', by, nonce, { authTagLength: 16 });
  const data = cipher.update(plain);
  cipher.final();
  return entry(type, 5, nonce, cipher.getAuthTag(), data);
}

function protector(protection: number, properties: readonly Buffer[]): Buffer {
  const head = Buffer.alloc(28);
  head.fill(protection % 255, 0, 16);
  head.writeUInt16LE(protection, 26);
  return entry(2, 8, head, ...properties);
}

const SALTS = { passphrase: Buffer.alloc(16, 7), recovery: Buffer.alloc(16, 9) };
const stretchedKeys = new Map<string, Buffer>();

/** It takes a second, and all images of a test have the same secrets. */
function stretchedKey(which: keyof typeof SALTS): Buffer {
  const known = stretchedKeys.get(which);
  if (known !== undefined) return known;
  let secret = sha256(sha256(Buffer.from(PASSPHRASE, 'utf16le')));
  if (which === 'recovery') {
    const bits = Buffer.alloc(16);
    for (const [i, group] of RECOVERY.split('-').entries()) bits.writeUInt16LE(Number(group) / 11, 2 * i);
    secret = sha256(bits);
  }
  const key = stretch(secret, SALTS[which]);
  stretchedKeys.set(which, key);
  return key;
}

const stretchProtector = (protection: number, which: keyof typeof SALTS, master: Buffer): Buffer => {
  const key = stretchedKey(which);
  const inner = wrapped(0, 0x1001, key, master);
  return protector(protection, [entry(0, 3, u32(0x1000), SALTS[which], inner), wrapped(0, 0x2000, master, key)]);
};

export interface BitLockerSpec {
  readonly method: Method;
  readonly sectorSize?: 512 | 4096;
  /** A disk that can be taken out has another boot sector. */
  readonly removable?: boolean;
  /** From there on the volume is not enciphered. */
  readonly encryptedSize?: number;
  /** How it is protected; 'suspended': with a key in the clear. */
  readonly protectors?: readonly ('passphrase' | 'recovery' | 'suspended' | 'external')[];
}

/** The key that a BEK file has, and the file. */
const EXTERNAL = Buffer.alloc(32, 0xe1);
export function bekFile(): Buffer {
  const id = Buffer.alloc(16, 0x200 % 255);
  const body = entry(6, 9, id, Buffer.alloc(8), entry(0, 1, u32(0x2002), EXTERNAL));
  return Buffer.concat([u32(48 + body.length), u32(1), u32(48), u32(48 + body.length), Buffer.alloc(32), body]);
}

function entriesFor(spec: BitLockerSpec, plan: Plan, key: Buffer): Buffer {
  const { method, protectors = ['passphrase', 'recovery'] } = spec;
  const master = Buffer.alloc(32, 0x3c);
  const made = protectors.map(which => {
    if (which === 'passphrase') return stretchProtector(0x2000, which, master);
    if (which === 'recovery') return stretchProtector(0x800, which, master);
    if (which === 'external') return protector(0x200, [wrapped(0, 0x2000, master, EXTERNAL)]);
    const clear = Buffer.alloc(32, 0x55);
    return protector(0, [entry(0, 1, u32(0x2000), clear), wrapped(0, 0x2000, master, clear)]);
  });
  const label = entry(7, 2, Buffer.from('made for a test\0', 'utf16le'));
  const place = Buffer.alloc(16);
  place.writeBigUInt64LE(BigInt(plan.headerAt));
  place.writeBigUInt64LE(BigInt(HEADER), 8);
  return Buffer.concat([label, ...made, wrapped(3, METHODS[method][0], key, master), entry(15, 15, place)]);
}

function metadataFor(spec: BitLockerSpec, plan: Plan, key: Buffer): Buffer {
  const entries = entriesFor(spec, plan, key);
  const length = Math.ceil((64 + 48 + entries.length) / 16) * 16;
  const block = Buffer.alloc(AREA);
  block.write('-FVE-FS-', 0, 'latin1');
  block.writeUInt16LE(length / 16, 8);
  for (const [at, value] of [
    [10, 2],
    [12, 4],
    [14, 4],
  ] as const)
    block.writeUInt16LE(value, at);
  block.writeBigUInt64LE(BigInt(plan.encryptedSize), 16);
  block.writeUInt32LE(HEADER / plan.sectorSize, 28);
  for (const [i, at] of plan.areas.entries()) block.writeBigUInt64LE(BigInt(at), 32 + 8 * i);
  block.writeBigUInt64LE(BigInt(plan.headerAt), 56);
  for (const [i, value] of [48 + entries.length, 1, 48, 48 + entries.length].entries())
    block.writeUInt32LE(value, 64 + 4 * i);
  block.fill(0x1d, 80, 96);
  block.writeUInt32LE(METHODS[spec.method][0], 100);
  entries.copy(block, 112);
  block.writeUInt16LE(8, length);
  block.writeUInt16LE(1, length + 2);
  block.writeUInt32LE(crc32(block.subarray(0, length)), length + 4);
  return block;
}

export interface Plan {
  readonly sectorSize: 512 | 4096;
  readonly encryptedSize: number;
  readonly areas: readonly [number, number, number];
  readonly headerAt: number;
}

/** Where metadata and the first sectors go on a volume of this size: the plain volume is to hold nothing there. */
export function planFor(size: number, spec: BitLockerSpec): Plan {
  const areas = [1, 2, 3].map(i => Math.floor((size * i) / 4 / AREA) * AREA);
  return {
    sectorSize: spec.sectorSize ?? 512,
    encryptedSize: spec.encryptedSize ?? size,
    areas: areas as unknown as readonly [number, number, number],
    headerAt: areas[0]! + AREA,
  };
}

function bootSector(spec: BitLockerSpec, plan: Plan, size: number): Buffer {
  const sector = Buffer.alloc(512);
  sector.set([0xeb, 0x58, 0x90]);
  sector.write(spec.removable === true ? 'MSWIN4.1' : '-FVE-FS-', 3, 'latin1');
  sector.writeUInt16LE(plan.sectorSize, 11);
  sector[13] = 8;
  sector.writeUInt32LE(size / plan.sectorSize, 32);
  const at = spec.removable === true ? 424 : 160;
  sector.write(ID, at, 'hex');
  for (const [i, area] of plan.areas.entries()) sector.writeBigUInt64LE(BigInt(area), at + 16 + 8 * i);
  sector.writeUInt16LE(0xaa55, 510);
  return sector;
}

/** The volume as BitLocker has it. */
export function bitLockerImage(plain: Uint8Array, spec: BitLockerSpec): Buffer {
  const plan = planFor(plain.length, spec);
  const { sectorSize, encryptedSize, headerAt, areas } = plan;
  const key = Buffer.from(noise(METHODS[spec.method][1], 77));
  const image = Buffer.from(plain);
  const put = (from: number, to: number): void => {
    const sector = plain.subarray(from, from + sectorSize);
    image.set(to < encryptedSize ? enciphered(spec.method, key, sector, to) : sector, to);
  };
  for (let at = 0; at < encryptedSize; at += sectorSize) put(at, at);
  for (let at = 0; at < HEADER; at += sectorSize) put(at, headerAt + at);
  image.set(noise(HEADER, 5), 0);
  image.set(bootSector(spec, plan, plain.length), 0);
  const metadata = metadataFor(spec, plan, key);
  for (const at of areas) image.set(metadata, at);
  return image;
}

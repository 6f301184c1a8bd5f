/**
 * Ciphers of BitLocker volumes. Sources: libbde, "BitLocker Drive Encryption (BDE) format", "Encryption methods"; N. Ferguson,
 * "AES-CBC + Elephant diffuser".
 */
import { createCipheriv } from 'node:crypto';
import { ImageError } from '../../base/errors.ts';
import { cbcCipher, type SectorCipher, xtsCipher } from '../../base/sector-cipher.ts';

const BLOCK = 16;
/** Where the second key stands in that of a volume with a diffuser, whatever the first one's length. */
const TWEAK_AT = 32;
const A_ROUNDS = 5;
const B_ROUNDS = 3;
const A_TURNS = [9, 0, 13, 0] as const;
const B_TURNS = [0, 10, 0, 25] as const;

const turned = (value: number, by: number): number => (by === 0 ? value : (value << by) | (value >>> (32 - by)));

/** Undoes both diffusers on the words of one sector, in place. */
function undiffuse(words: Int32Array): void {
  const n = words.length;
  for (let round = 0; round < B_ROUNDS; round++) {
    for (let i = 0; i < n; i++) {
      words[i] = words[i]! + (words[(i + 2) % n]! ^ turned(words[(i + 5) % n]!, B_TURNS[i % 4]!));
    }
  }
  for (let round = 0; round < A_ROUNDS; round++) {
    for (let i = 0; i < n; i++) {
      words[i] = words[i]! + (words[(i + n - 2) % n]! ^ turned(words[(i + n - 5) % n]!, A_TURNS[i % 4]!));
    }
  }
}

/** The cipher of a sector beneath a diffuser, and a key of the sector over it. */
function elephant(under: SectorCipher, tweak: Uint8Array): SectorCipher {
  const { sectorSize } = under;
  const cipher = createCipheriv(`aes-${tweak.length * 8}-ecb`, tweak, null).setAutoPadding(false);
  const words = new Int32Array(sectorSize / 4);
  const bytes = new Uint8Array(words.buffer);
  const numbers = Buffer.alloc(2 * BLOCK);
  numbers[2 * BLOCK - 1] = 0x80;
  return {
    sectorSize,
    decipher(data, at) {
      under.decipher(data, at);
      for (let done = 0; done < data.length; done += sectorSize) {
        const sector = data.subarray(done, done + sectorSize);
        for (const half of [0, BLOCK]) {
          numbers.writeUInt32LE((at + done) % 0x1_0000_0000, half);
          numbers.writeUInt32LE(Math.floor((at + done) / 0x1_0000_0000), half + 4);
        }
        const key = cipher.update(numbers);
        bytes.set(sector);
        undiffuse(words);
        for (let i = 0; i < sectorSize; i++) sector[i] = bytes[i]! ^ key[i % key.length]!;
      }
    },
  };
}

interface Method {
  readonly name: string;
  /** Bytes of the key for data. */
  readonly key: number;
  readonly mode: 'cbc' | 'elephant' | 'xts';
}

const METHODS: ReadonlyMap<number, Method> = new Map([
  [0x8000, { name: 'AES-CBC 128 with diffuser', key: 16, mode: 'elephant' }],
  [0x8001, { name: 'AES-CBC 256 with diffuser', key: 32, mode: 'elephant' }],
  [0x8002, { name: 'AES-CBC 128', key: 16, mode: 'cbc' }],
  [0x8003, { name: 'AES-CBC 256', key: 32, mode: 'cbc' }],
  [0x8004, { name: 'AES-XTS 128', key: 32, mode: 'xts' }],
  [0x8005, { name: 'AES-XTS 256', key: 64, mode: 'xts' }],
]);

export function methodOf(method: number, its: string): Method {
  const found = METHODS.get(method);
  if (found !== undefined) return found;
  throw new ImageError('unsupported', `BitLocker with method 0x${method.toString(16)} is not known`, { file: its });
}

/** `at` counts from the volume's start: sectors are numbered by where they lie. */
export function cipherOf(
  { mode, key: length }: Method,
  key: Uint8Array,
  sectorSize: number,
  its: string,
): SectorCipher {
  const wanted = mode === 'elephant' ? 2 * TWEAK_AT : length;
  if (key.length !== wanted) {
    throw new ImageError('corrupt', `a BitLocker key of ${key.length} bytes where ${wanted} are due`, { file: its });
  }
  if (mode === 'xts') return xtsCipher(key, { sectorSize, unit: sectorSize, first: 0, bits: 64 });
  const data = key.subarray(0, length);
  const cbc = cbcCipher(data, data, { sectorSize, unit: 1, first: 0, bits: 64 });
  return mode === 'cbc' ? cbc : elephant(cbc, key.subarray(TWEAK_AT, TWEAK_AT + length));
}

/** The header of LUKS version 1: "LUKS1 On-Disk Format Specification" 1.2.3, section 2.1, figures 1 and 2. */

import { arrayOf, bytes, type Struct, struct, u16be, u32be } from '../struct.ts';
import type { LuksHeader } from './index.ts';
import { fault, type Keyslot, type LuksSource } from './keyslot.ts';

const SECTOR = 512;
const ENABLED = 0x00ac71f3;
const DISABLED = 0x0000dead;
export const LUKS1_SLOTS = 8;

const Slot = struct('LUKS1 keyslot', 48, {
  active: [0, u32be],
  iterations: [4, u32be],
  salt: [8, bytes(32)],
  areaAt: [40, u32be],
  stripes: [44, u32be],
});

const Header = struct('LUKS1 header', 592, {
  magic: [0, bytes(6)],
  version: [6, u16be],
  cipherName: [8, bytes(32)],
  cipherMode: [40, bytes(32)],
  hash: [72, bytes(32)],
  payloadAt: [104, u32be],
  keyBytes: [108, u32be],
  digest: [112, bytes(20)],
  digestSalt: [132, bytes(32)],
  digestIterations: [164, u32be],
  uuid: [168, bytes(40)],
  slots: [208, arrayOf(Slot as Struct<ReturnType<typeof Slot.parse>>, LUKS1_SLOTS)],
});

export const LUKS1_HEADER = Header.size;

/** A text in a field of fixed length. */
export function fieldOf(field: Uint8Array): string {
  const end = field.indexOf(0);
  return Buffer.from(end < 0 ? field : field.subarray(0, end)).toString('latin1');
}

/** `head`: the first bytes, LUKS1_HEADER of them at least. */
export function luks1Header(source: LuksSource, head: Uint8Array): LuksHeader {
  const header = Header.parse(head, 0, source.name);
  const cipher = `${fieldOf(header.cipherName)}-${fieldOf(header.cipherMode)}`;
  const hash = fieldOf(header.hash);
  const { keyBytes, digestSalt, digestIterations, digest } = header;
  const slots = header.slots.flatMap(({ active, iterations, salt, areaAt, stripes }, i): Keyslot[] =>
    active !== ENABLED
      ? []
      : [
          {
            name: String(i),
            derivation: { type: 'pbkdf2', hash, iterations, salt },
            keySize: keyBytes,
            cipher,
            cipherKeySize: keyBytes,
            areaAt: areaAt * SECTOR,
            stripes,
            stripeHash: hash,
          },
        ],
  );
  if (header.payloadAt === 0) throw fault(source, 'unsupported', 'a LUKS header apart from its data', 104);
  return {
    version: 1,
    uuid: fieldOf(header.uuid),
    label: '',
    cipher,
    sectorSize: SECTOR,
    payloadAt: header.payloadAt * SECTOR,
    payloadSize: null,
    firstSector: 0,
    slots,
    digest: { hash, iterations: digestIterations, salt: digestSalt, digest },
    warnings: [],
  };
}

const text = (value: string, length: number): Uint8Array => {
  const field = new Uint8Array(length);
  field.set(Buffer.from(value, 'latin1').subarray(0, length - 1));
  return field;
};

export interface Luks1Spec {
  readonly cipherName: string;
  readonly cipherMode: string;
  readonly hash: string;
  /** Bytes, whole sectors. */
  readonly payloadAt: number;
  readonly keyBytes: number;
  readonly digest: { readonly iterations: number; readonly salt: Uint8Array; readonly digest: Uint8Array };
  readonly uuid: string;
  readonly stripes: number;
  /** Eight; `key` null: not in use. Areas in bytes, whole sectors. */
  readonly slots: readonly {
    readonly key: { readonly iterations: number; readonly salt: Uint8Array } | null;
    readonly areaAt: number;
  }[];
}

/** The header without key material. */
export const buildLuks1Header = (spec: Luks1Spec): Uint8Array =>
  Header.build({
    magic: Buffer.from('LUKS\xba\xbe', 'latin1'),
    version: 1,
    cipherName: text(spec.cipherName, 32),
    cipherMode: text(spec.cipherMode, 32),
    hash: text(spec.hash, 32),
    payloadAt: spec.payloadAt / SECTOR,
    keyBytes: spec.keyBytes,
    digest: spec.digest.digest,
    digestSalt: spec.digest.salt,
    digestIterations: spec.digest.iterations,
    uuid: text(spec.uuid, 40),
    slots: spec.slots.map(({ key, areaAt }) => ({
      active: key === null ? DISABLED : ENABLED,
      iterations: key?.iterations ?? 0,
      salt: key?.salt ?? new Uint8Array(32),
      areaAt: areaAt / SECTOR,
      stripes: spec.stripes,
    })),
  });

/** VHD files built field by field from the specification, for tests: shapes that the programs at hand do not write. */
import { viewOf } from '../../src/base/struct.ts';
import { buildFooter, buildHeader, DISK_TYPE, DynamicHeader, Footer, headerSum, NOWHERE } from '../../src/base/vhd.ts';
import { bitmapLength } from './layer.ts';

export interface Locator {
  readonly code: string;
  readonly content: Uint8Array;
}

export interface FixtureSpec {
  readonly blockSize: number;
  /** Per block its content, null for none; `bits` per sector, all set unless told. */
  readonly blocks: readonly ({ readonly data: Uint8Array; readonly bits?: readonly boolean[] } | null)[];
  readonly size?: number;
  readonly uuid: Uint8Array;
  readonly parent?: { readonly uuid: Uint8Array; readonly name: string; readonly locators: readonly Locator[] };
  /** The block table comes after the blocks. */
  readonly tableLast?: boolean;
}

export const uuidOf = (n: number): Uint8Array => new Uint8Array(16).fill(n);

export function footerOf(size: number, type: keyof typeof DISK_TYPE, uuid: Uint8Array): Uint8Array {
  return buildFooter({
    features: 2,
    fileFormatVersion: 0x10000,
    dataOffset: type === 'fixed' ? NOWHERE : 512n,
    timeStamp: 1000,
    creatorApplication: new TextEncoder().encode('win '),
    creatorVersion: 0xa0000,
    creatorHostOs: 0x5769326b,
    originalSize: size,
    currentSize: size,
    diskGeometry: { cylinders: 65535, heads: 16, sectorsPerTrack: 255 },
    diskType: DISK_TYPE[type],
    uniqueId: uuid,
    savedState: 0,
  });
}

export const fixedVhd = (content: Uint8Array, uuid = uuidOf(9)): Uint8Array =>
  Buffer.concat([content, footerOf(content.length, 'fixed', uuid)]);

/** Recomputes a footer's or header's checksum after a test has changed its fields. */
export function resum(file: Uint8Array, at: number, what: 'footer' | 'header'): void {
  const struct = what === 'footer' ? Footer : DynamicHeader;
  const part = file.subarray(at, at + struct.size);
  const skip = struct.offsetOf('checksum');
  let sum = 0;
  for (let i = 0; i < part.length; i++) if (i < skip || i >= skip + 4) sum += part[i]!;
  viewOf(part).setUint32(skip, 0xffff_ffff - sum);
}

function bitmapOf(length: number, bits: readonly boolean[] | undefined): Uint8Array {
  const bitmap = new Uint8Array(length).fill(bits === undefined ? 0xff : 0);
  for (const [sector, bit] of (bits ?? []).entries()) if (bit) bitmap[Math.floor(sector / 8)]! |= 0x80 >> (sector % 8);
  return bitmap;
}

function headerWith(parent: NonNullable<FixtureSpec['parent']>, header: Uint8Array, locatorsAt: number): Uint8Array {
  const view = viewOf(header);
  header.set(parent.uuid, 40);
  header.set(Buffer.from(parent.name, 'utf16le').swap16(), 64);
  let at = locatorsAt;
  for (const [i, { code, content }] of parent.locators.entries()) {
    const entry = 576 + i * 24;
    header.set(new TextEncoder().encode(code), entry);
    view.setUint32(entry + 4, 1);
    view.setUint32(entry + 8, content.length);
    view.setBigUint64(entry + 16, BigInt(at));
    at += 512;
  }
  view.setUint32(36, headerSum(header));
  return header;
}

/** A dynamic, or with a parent a differencing, VHD. Blocks lie in a shuffled order with unused sectors between them. */
export function blockVhd(spec: FixtureSpec): Uint8Array {
  const { blockSize, blocks, uuid, parent } = spec;
  const size = spec.size ?? blocks.length * blockSize;
  const footer = footerOf(size, parent === undefined ? 'dynamic' : 'differencing', uuid);
  const table = new Uint8Array(Math.ceil((blocks.length * 4) / 512) * 512).fill(0xff);
  const locatorsAt = 1536;
  const afterLocators = locatorsAt + 512 * (parent?.locators.length ?? 0);
  const bitmap = bitmapLength(blockSize);
  const present = [...blocks.keys()].filter(i => blocks[i] !== null);
  const order = present.map(i => ({ i, key: (i * 7919 + 5) % 10_007 })).toSorted((a, b) => b.key - a.key);
  const stride = bitmap + blockSize + 512;
  const blocksAt = spec.tableLast === true ? afterLocators : afterLocators + table.length;
  const tableAt = spec.tableLast === true ? blocksAt + order.length * stride : afterLocators;
  const file = new Uint8Array(blocksAt + order.length * stride + (spec.tableLast === true ? table.length : 0) + 512);
  const header = buildHeader(tableAt, blocks.length, blockSize);
  for (const [place, { i }] of order.entries()) {
    const at = blocksAt + place * stride;
    viewOf(table).setUint32(i * 4, at / 512);
    file.set(bitmapOf(bitmap, blocks[i]!.bits), at);
    file.set(blocks[i]!.data, at + bitmap);
  }
  file.set(footer, 0);
  file.set(parent === undefined ? header : headerWith(parent, header, locatorsAt), 512);
  for (const [i, { content }] of (parent?.locators ?? []).entries()) file.set(content, locatorsAt + i * 512);
  file.set(table, tableAt);
  file.set(footer, file.length - 512);
  return file;
}

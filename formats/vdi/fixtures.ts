/** VDI files built field by field, for tests: shapes that the programs at hand do not write. */
import { DISCARDED, FREE, HEADER_LENGTH, HEADER_SIZE, Header, IMAGE_TYPE, isNull, VERSION } from './structs.ts';

export interface FixtureSpec {
  readonly blockSize: number;
  /** Per block its content; 'free' was never written to, 'discarded' reads as zeros. */
  readonly blocks: readonly (Uint8Array | 'free' | 'discarded')[];
  readonly uuid: Uint8Array;
  readonly parent?: Uint8Array;
  readonly size?: number;
  /** Extra bytes before the data of every block. */
  readonly extra?: number;
}

export const uuidOf = (n: number): Uint8Array => Uint8Array.from({ length: 16 }, (_, i) => n + i);

/** Blocks lie in reverse order. */
export function vdiFile(spec: FixtureSpec): Uint8Array {
  const { blockSize, blocks, uuid, extra = 0 } = spec;
  const parent = spec.parent ?? new Uint8Array(16);
  const dataOffset = Math.ceil((HEADER_SIZE + blocks.length * 4) / 512) * 512;
  const stored = blocks.flatMap((block, i) => (typeof block === 'string' ? [] : [{ block, i }])).toReversed();
  const header = Header.build({
    text: new Uint8Array(64),
    signature: '\x7f\x10\xda\xbe',
    version: VERSION,
    headerLength: HEADER_LENGTH,
    imageType: isNull(parent) ? IMAGE_TYPE.dynamic : IMAGE_TYPE.differencing,
    flags: 0,
    description: new Uint8Array(256),
    mapOffset: HEADER_SIZE,
    dataOffset,
    sectorSize: 512,
    diskSize: spec.size ?? blocks.length * blockSize,
    blockSize,
    blockExtra: extra,
    blocks: blocks.length,
    blocksAllocated: stored.length,
    imageUuid: uuid,
    lastSnapUuid: uuidOf(99),
    linkUuid: new Uint8Array(16),
    parentUuid: parent,
    geometrySector: 512,
  });
  const file = new Uint8Array(dataOffset + stored.length * (blockSize + extra));
  file.set(header);
  const view = new DataView(file.buffer);
  for (const [i, block] of blocks.entries()) {
    view.setUint32(HEADER_SIZE + i * 4, block === 'discarded' ? DISCARDED : FREE, true);
  }
  for (const [place, { block, i }] of stored.entries()) {
    view.setUint32(HEADER_SIZE + i * 4, place, true);
    file.fill(0xee, dataOffset + place * (blockSize + extra), dataOffset + place * (blockSize + extra) + extra);
    file.set(block, dataOffset + place * (blockSize + extra) + extra);
  }
  return file;
}

/** QED: QEMU docs/interop/qed_spec.rst. Little-endian. */
import { bits64le, magic, struct, u32le, u64le } from '../../src/base/struct.ts';

export const HEADER_SIZE = 64;
const MAGIC = 'QED\0';

export const Header = struct('QED header', HEADER_SIZE, {
  magic: [0, magic(MAGIC)],
  clusterSize: [4, u32le],
  /** In clusters, as is the next one. */
  tableSize: [8, u32le],
  headerSize: [12, u32le],
  features: [16, bits64le],
  compatibleFeatures: [24, bits64le],
  autoclearFeatures: [32, bits64le],
  firstAt: [40, u64le],
  size: [48, u64le],
  backingAt: [56, u32le],
  backingLength: [60, u32le],
});
export type HeaderFields = ReturnType<typeof Header.parse>;

export const FEATURE = { backingFile: 1n, needsCheck: 2n, backingIsRaw: 4n } as const;

export const isQed = (head: Uint8Array): boolean =>
  head.length >= HEADER_SIZE && [...MAGIC].every((c, i) => head[i] === c.charCodeAt(0));

/**
 * Clusters that are enciphered with LUKS (QEMU docs/interop/qcow2.txt, "Full disk encryption header pointer"). The header
 * lies in clusters of the image; sectors are numbered by where they lie in the file, not on the guest's disk.
 */
import type { ByteSource, Bytes, Keyring, Layer, Location } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { type LuksSource, luksHeader, unlockLuks } from '../../src/base/luks/index.ts';
import type { SectorCipher } from '../../src/base/sector-cipher.ts';
import type { Qcow2Header } from './header.ts';

/** Clusters are deciphered in parts of at most this length. */
const UNIT: Bytes = 65_536;

/** 'locked' without a secret, 'wrong-key' when none fits, 'corrupt' and 'unsupported' for what is no header or none that is known. */
export async function unlock(source: ByteSource, header: Qcow2Header, keys: Keyring): Promise<SectorCipher> {
  const where = { file: source.name, at: header.luksAt, field: 'LUKS header' };
  const stretch: LuksSource = {
    name: source.name,
    size: header.luksLength,
    read: (into, at) => source.read(into, header.luksAt + at),
  };
  if (header.luksLength === 0 || header.luksAt + header.luksLength > source.size)
    throw new ImageError('corrupt', 'encrypted with LUKS, but the header of LUKS is not in the file', where);
  const luks = await luksHeader(stretch, false);
  if (luks === null) throw new ImageError('corrupt', 'encrypted with LUKS, but there is no header of LUKS', where);
  return unlockLuks(stretch, luks, keys);
}

interface HostPart {
  readonly source: ByteSource;
  /** Offset in the file that the unit's first byte would have. */
  readonly at: Bytes;
}

/** Where a unit lies in the file, by the first part of it that lies anywhere. */
async function hostOf(layer: Layer, at: Bytes, end: Bytes): Promise<HostPart> {
  for (let pos = at; pos < end; ) {
    const found: Location | null = layer.locate(pos, end - pos);
    if (found === null) {
      await layer.load(pos, end - pos);
      continue;
    }
    if (found.kind === 'plain') return { source: found.source, at: found.at - (pos - at) };
    // An entry that makes no sense says so by itself.
    if (found.kind === 'packed') {
      await layer.unpack(found.unit, new Uint8Array(layer.blockSize));
      throw new ImageError('unsupported', `cluster ${found.unit} is compressed and encrypted`);
    }
    pos += found.length;
  }
  throw new ImageError('out-of-range', `nothing is stored at ${at}`);
}

/** The layer with its stored bytes deciphered; zeros and what the backing file knows are not enciphered. */
export function decipheredLayer(layer: Layer, cipher: SectorCipher): Layer {
  const blockSize = Math.min(layer.blockSize, UNIT);
  return {
    id: layer.id,
    size: layer.size,
    blockSize,
    locate(at, limit) {
      const found = layer.locate(at, limit);
      if (found === null || found.kind === 'zero' || found.kind === 'absent') return found;
      const within = at % blockSize;
      return {
        kind: 'packed',
        unit: (at - within) / blockSize,
        within,
        length: Math.min(found.length, blockSize - within),
      };
    },
    load: (at, limit) => layer.load(at, limit),
    async unpack(unit, into) {
      const at = unit * blockSize;
      const host = await hostOf(layer, at, Math.min(layer.size, at + blockSize));
      const stored = Math.min(blockSize, host.source.size - (host.source.size % cipher.sectorSize) - host.at);
      if (stored <= 0)
        throw new ImageError('corrupt', 'an enciphered cluster past the end of the file', { at: host.at });
      const part = into.subarray(0, stored);
      await host.source.read(part, host.at);
      cipher.decipher(part, host.at);
      into.fill(0, stored);
      into.fill(0, Math.max(0, Math.min(blockSize, layer.size - at)));
    },
  };
}

import { createHash } from 'node:crypto';
import type {
  Adapter,
  ByteSource,
  Confidence,
  Image,
  ImagePoint,
  Layer,
  LayerId,
  Store,
} from '../../src/base/contracts.ts';
import { hasMagic, type ImageHeader } from './structs.ts';
import { verifyVolume } from './verify.ts';
import { type PartcloneVolume, partcloneVolume, readHeader, unchecked } from './volume.ts';

const identityOf = (source: ByteSource, header: ImageHeader): string =>
  `partclone:${createHash('sha256')
    .update(JSON.stringify([source.size, header]))
    .digest('hex')}`;

/** The volume as a disk without a partition table. */
const layerOf = (id: LayerId, { size, blockSize, locate, load, unpack }: PartcloneVolume): Layer => ({
  id,
  size,
  blockSize,
  locate,
  load,
  unpack,
});

/** Bytes that an image of this length stores for its volume. */
const storedBytes = ({ usedBlocks, blockSize, size }: ImageHeader, length: number): number =>
  Math.min(usedBlocks * blockSize, size, length);

async function openVolume(source: ByteSource): Promise<PartcloneVolume> {
  return partcloneVolume(source, await readHeader(source));
}

function imageOf(name: string, source: ByteSource, volume: PartcloneVolume): Image {
  const { header } = volume;
  const id = `partclone:${name}` as LayerId;
  const doubt = unchecked(header);
  const point: ImagePoint = {
    id,
    parent: null,
    set: null,
    time: null,
    type: 'full',
    disks: [
      {
        name: 'disk0',
        size: volume.size,
        sectorSize: 512,
        stored: storedBytes(header, source.size),
        layer: layerOf(id, volume),
      },
    ],
    identity: identityOf(source, header),
    problem: null,
  };
  return {
    adapter: 'partclone',
    name,
    encrypted: false,
    points: [point],
    warnings: doubt === null ? [] : [doubt],
    verify: run => verifyVolume(volume, run),
    [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
  };
}

const probe = (head: Uint8Array): Confidence => (hasMagic(head) ? 'certain' : 'no');

/** Reads a single partclone image: one volume, shown as a disk without a partition table. */
export const partclone: Adapter = {
  name: 'partclone',
  title: 'partclone',
  extensions: ['.pcl', '.partclone'],
  supports: { differencing: false, encryption: false, compression: false, write: false },
  probe,
  async open(name: string, store: Store) {
    const source = await store.open(name);
    try {
      return imageOf(name, source, await openVolume(source));
    } catch (error) {
      await source[Symbol.asyncDispose]();
      throw error;
    }
  },
};

import { createHash } from 'node:crypto';
import type { Volume } from '../../src/base/assemble.ts';
import type {
  Adapter,
  ByteSource,
  Confidence,
  Image,
  ImagePoint,
  Keyring,
  Layer,
  LayerId,
  Scratch,
  Store,
  Verified,
  VerifyRun,
} from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { mustUnpack, type Packing, packingOf } from '../../src/base/packing/packing.ts';
import { packedVolume } from './saved.ts';
import { hasMagic, type ImageHeader } from './structs.ts';
import { verifyVolume } from './verify.ts';
import { partcloneVolume, readHeader, unchecked } from './volume.ts';

const identityOf = (source: ByteSource, header: ImageHeader): string =>
  `partclone:${createHash('sha256')
    .update(JSON.stringify([source.size, header]))
    .digest('hex')}`;

/** The volume as a disk without a partition table. */
const layerOf = ({ blockSize, locate, load, deferred, unpack }: Volume): Omit<Layer, 'id' | 'size'> => ({
  blockSize,
  locate,
  load,
  unpack,
  ...(deferred === undefined ? {} : { deferred }),
});

/** Bytes that an image of this length stores for its volume. */
const storedBytes = ({ usedBlocks, blockSize, size }: ImageHeader, length: number): number =>
  Math.min(usedBlocks * blockSize, size, length);

interface Opened extends AsyncDisposable {
  readonly volume: Volume;
  readonly header: ImageHeader;
  verify(run: VerifyRun): Promise<Verified>;
}

async function openPlain(source: ByteSource): Promise<Opened> {
  const volume = partcloneVolume(source, await readHeader(source));
  return {
    volume,
    header: volume.header,
    verify: run => verifyVolume(volume, run),
    [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
  };
}

async function openPacked(source: ByteSource, packing: Packing, scratch: Scratch | undefined): Promise<Opened> {
  const { name } = source;
  const refused = () => mustUnpack(name, packing, name.replace(/\.[^.]+$/, ''));
  if (scratch === undefined) throw refused();
  const saved = await packedVolume(source, packing, scratch, null, refused);
  const { header, volume } = saved;
  if (header === null) throw new ImageError('not-this-format', 'what is compressed is no image', { file: name });
  return {
    volume,
    header,
    verify: run => saved.verify(run, 'disk0'),
    [Symbol.asyncDispose]: () => saved[Symbol.asyncDispose](),
  };
}

function imageOf(name: string, source: ByteSource, opened: Opened): Image {
  const { header, volume } = opened;
  const id = `partclone:${name}` as LayerId;
  const doubt = unchecked(header);
  const { size } = header;
  const point: ImagePoint = {
    id,
    parent: null,
    set: null,
    time: null,
    type: 'full',
    disks: [
      {
        name: 'disk0',
        size,
        sectorSize: 512,
        stored: storedBytes(header, source.size),
        layer: { ...layerOf(volume), id, size },
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
    verify: run => opened.verify(run),
    [Symbol.asyncDispose]: () => opened[Symbol.asyncDispose](),
  };
}

/** By the name and the first bytes: what is in a compressed file is not looked at. */
const packingFor = (head: Uint8Array, name: string): Packing | null =>
  /\.(?:pcl|partclone)\.\w+$/i.test(name) ? packingOf(head) : null;

const probe = (head: Uint8Array, _tail: Uint8Array, name: string): Confidence =>
  hasMagic(head) || packingFor(head, name) !== null ? 'certain' : 'no';

async function open(name: string, store: Store, _keys: Keyring, scratch?: Scratch): Promise<Image> {
  const source = await store.open(name);
  try {
    const head = new Uint8Array(Math.min(16, source.size));
    await source.read(head, 0);
    const packing = packingFor(head, name);
    return imageOf(
      name,
      source,
      packing === null ? await openPlain(source) : await openPacked(source, packing, scratch),
    );
  } catch (error) {
    await source[Symbol.asyncDispose]();
    throw error;
  }
}

/** Reads a single partclone image: one volume, shown as a disk without a partition table. */
export const partclone: Adapter = {
  name: 'partclone',
  title: 'partclone',
  extensions: ['.pcl', '.partclone'],
  supports: { differencing: false, encryption: false, compression: true, write: false },
  probe,
  open,
};

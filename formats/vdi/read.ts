import { createHash } from 'node:crypto';
import type { Adapter, ByteSource, Bytes, Image, ImagePoint, LayerId, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { isPowerOfTwo, roundUp } from '../../src/base/range.ts';
import { type BlockMap, mapLayer } from './layer.ts';
import { encryptedBy } from './machine.ts';
import {
  HEADER_SIZE,
  Header,
  type HeaderFields,
  hasSignature,
  IMAGE_TYPE,
  isNull,
  LENGTH_FROM,
  SECTOR,
  SHORTEST_HEADER,
  uuidText,
  VERSION,
} from './structs.ts';

/** VirtualBox makes blocks of 1 MiB. */
const SMALLEST_BLOCK = 4096;
const LARGEST_BLOCK = 2 ** 28;
const TYPES: readonly number[] = [IMAGE_TYPE.dynamic, IMAGE_TYPE.static, IMAGE_TYPE.differencing];

type Refuse = (fault: 'unsupported' | 'corrupt', message: string, field: keyof HeaderFields) => never;

const refuserFor =
  (file: string): Refuse =>
  (fault, message, field) => {
    throw new ImageError(fault, message, { file, at: Header.offsetOf(field), field });
  };

/** Where map and data lie, and whether all of it fits. */
function checkPlaces(header: HeaderFields, fileSize: Bytes, refuse: Refuse): void {
  const { mapOffset, dataOffset, blocks, blockSize, blockExtra, diskSize } = header;
  if (!isPowerOfTwo(blockSize) || blockSize < SMALLEST_BLOCK || blockSize > LARGEST_BLOCK) {
    refuse('unsupported', `a block size of ${blockSize} bytes is not known`, 'blockSize');
  }
  if (blockExtra % SECTOR !== 0 || blockExtra > blockSize) {
    refuse('unsupported', `${blockExtra} extra bytes before every block are not known`, 'blockExtra');
  }
  if (diskSize === 0) refuse('corrupt', 'the disk has no bytes', 'diskSize');
  if (blocks * blockSize < diskSize) {
    refuse('corrupt', `${blocks} blocks of ${blockSize} bytes are too few for ${diskSize} bytes`, 'blocks');
  }
  if (mapOffset % SECTOR !== 0 || mapOffset < LENGTH_FROM + header.headerLength) {
    refuse('corrupt', `the block map cannot lie at ${mapOffset}`, 'mapOffset');
  }
  if (mapOffset + blocks * 4 > fileSize) {
    refuse('corrupt', `a map of ${blocks} blocks does not fit into the file`, 'blocks');
  }
  if (dataOffset % SECTOR !== 0 || dataOffset < mapOffset + blocks * 4) {
    refuse('corrupt', `the data cannot begin at ${dataOffset}`, 'dataOffset');
  }
}

/** Refuses by name what this reader does not know. */
function checkHeader(header: HeaderFields, fileSize: Bytes, file: string): void {
  const refuse = refuserFor(file);
  if (header.version !== VERSION) {
    const version = `${Math.floor(header.version / 65_536)}.${header.version % 65_536}`;
    refuse('unsupported', `VDI version ${version} is not known`, 'version');
  }
  if (header.headerLength < SHORTEST_HEADER || header.headerLength > 2 ** 20) {
    refuse('corrupt', `a header of ${header.headerLength} bytes is not known`, 'headerLength');
  }
  if (header.imageType === IMAGE_TYPE.undo) refuse('unsupported', 'undo disks cannot be read', 'imageType');
  if (!TYPES.includes(header.imageType)) {
    refuse('unsupported', `VDI image type ${header.imageType} is not known`, 'imageType');
  }
  if (header.sectorSize !== SECTOR) {
    refuse('unsupported', `sectors of ${header.sectorSize} bytes are not known`, 'sectorSize');
  }
  const differencing = header.imageType === IMAGE_TYPE.differencing;
  if (differencing === isNull(header.parentUuid)) {
    const message = differencing ? 'a differencing disk without a parent' : 'only a differencing disk has a parent';
    refuse('corrupt', message, 'parentUuid');
  }
  checkPlaces(header, fileSize, refuse);
}

/** Bytes of the file that hold data; the header's own count may be stale after a crash. */
const storedIn = ({ dataOffset, blocks, blockSize, blockExtra }: HeaderFields, fileSize: Bytes): Bytes =>
  Math.max(0, Math.min(blocks * (blockSize + blockExtra), fileSize - dataOffset));

async function readPoint(source: ByteSource, store: Store, warnings: string[]): Promise<ImagePoint> {
  const file = source.name;
  const raw = new Uint8Array(Math.min(HEADER_SIZE, source.size));
  await source.read(raw, 0);
  if (!hasSignature(raw)) throw new ImageError('not-this-format', 'not a VDI image', { file, at: 0 });
  const header = Header.parse(raw, 0, file);
  checkHeader(header, source.size, file);
  const size = roundUp(header.diskSize, SECTOR);
  if (size !== header.diskSize) {
    warnings.push(`the disk's size of ${header.diskSize} bytes is filled up to whole sectors`);
  }
  const uuid = uuidText(header.imageUuid);
  const id = `vdi:${uuid}` as LayerId;
  const differencing = header.imageType === IMAGE_TYPE.differencing;
  const { blockSize, blocks, mapOffset: mapAt, dataOffset: dataAt, blockExtra: extra } = header;
  const map: BlockMap = { size, blockSize, blocks, mapAt, dataAt, extra, differencing };
  const mapStart = new Uint8Array(Math.min(blocks * 4, 4096));
  await source.read(mapStart, mapAt);
  const settings = await encryptedBy(file, uuid, store);
  const problem =
    settings === null
      ? null
      : new ImageError('unsupported', `encrypted by VirtualBox, as ${settings} says: it cannot be read`, { file });
  const parent = uuidText(header.parentUuid);
  const digest = createHash('sha256').update(raw).update(mapStart).update(String(source.size)).digest('hex');
  const layer = problem === null ? mapLayer(id, source, map) : null;
  return {
    id,
    // VirtualBox names a differencing disk after its UUID; the base is found by what is in it.
    parent: differencing ? { by: 'id', id: `vdi:${parent}` as LayerId, names: [`{${parent}}.vdi`] } : null,
    set: null,
    time: null,
    type: differencing ? 'incremental' : 'full',
    disks: [{ name: 'disk0', size, sectorSize: SECTOR, stored: storedIn(header, source.size), layer }],
    identity: `vdi:${uuid}:${digest.slice(0, 32)}`,
    problem,
  };
}

/** Reads dynamic, static and differencing VDI files, version 1.1. */
export const vdi: Adapter = {
  name: 'vdi',
  title: 'Virtual Disk Image (VirtualBox)',
  extensions: ['.vdi'],
  supports: { differencing: true, encryption: false, compression: false, write: false },
  probe: head => (hasSignature(head) ? 'certain' : 'no'),
  async open(name, store): Promise<Image> {
    const source = await store.open(name);
    try {
      const warnings: string[] = [];
      const point = await readPoint(source, store, warnings);
      return {
        adapter: 'vdi',
        name,
        encrypted: point.problem !== null,
        points: [point],
        warnings,
        [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
      };
    } catch (error) {
      await source[Symbol.asyncDispose]();
      throw error;
    }
  },
};

import { createHash } from 'node:crypto';
import type {
  Adapter,
  ByteSource,
  Bytes,
  Confidence,
  Image,
  ImagePoint,
  Keyring,
  LayerId,
  Scratch,
  Store,
  VerifyRun,
} from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import {
  mustUnpack,
  PACKINGS,
  type Packing,
  packedHead,
  packingOf,
  unpackedSource,
} from '../../src/base/packing/packing.ts';
import { deviceName, inBootOrder } from '../../src/base/proxmox.ts';
import { type ArchiveHeader, headerLength, parseHeader } from './header.ts';
import { type Archive, deviceLayer, openArchive } from './layer.ts';
import { CLUSTER, EXTENT_HEADER, HEADER } from './structs.ts';

/** As vzdump compresses them. */
const USED = [PACKINGS.zst, PACKINGS.gz, PACKINGS.lzo];

async function plainHeader(source: ByteSource): Promise<Uint8Array> {
  if (source.size < HEADER) {
    throw new ImageError('corrupt', 'the archive ends inside its header', { file: source.name, at: source.size });
  }
  const head = new Uint8Array(HEADER);
  await source.read(head, 0);
  const whole = new Uint8Array(headerLength(head, source.name));
  await source.read(whole, 0);
  return whole;
}

/** The archive's header, from the front of the compressed file. */
async function packedHeader(source: ByteSource, packing: Packing): Promise<Uint8Array> {
  const length = (got: Uint8Array): Bytes => (got.length < HEADER ? HEADER : headerLength(got, source.name));
  const head = await packedHead(source, packing, length);
  if (head.length < HEADER || head.length < length(head)) {
    throw new ImageError('corrupt', 'the archive ends inside its header', { file: source.name, at: source.size });
  }
  return head.subarray(0, length(head));
}

/** More than this an archive with these devices cannot hold, even with an extent for each cluster. */
const longest = (header: ArchiveHeader): Bytes =>
  header.devices.reduce(
    (sum, { size }) => sum + Math.ceil(size / CLUSTER) * (CLUSTER + EXTENT_HEADER),
    header.size + EXTENT_HEADER,
  );

/** How the file is compressed, by its name and magic; null when it is not. */
const packingFor = (head: Uint8Array, name: string): Packing | null =>
  /\.vma\.(?:zst|gz|lzo)$/i.test(name) ? packingOf(head, USED) : null;

/** The backups of one machine belong together: `vzdump-qemu-100-2026_11_20-10_00_00.vma`. */
function setOf(name: string): string | null {
  return /(?:^|\/)(vzdump-qemu-\d+)-\d{4}_\d\d_\d\d-/.exec(name)?.[1] ?? null;
}

async function check(archive: Archive, header: ArchiveHeader, size: number, run: VerifyRun) {
  const { extents, faults } = await archive.load();
  for (const { fault, message, where } of faults) {
    run.found({ fault, message, file: archive.name, offset: where.at ?? 0 });
  }
  run.progress(size, size);
  return { checked: 1 + extents.length, bytes: header.size + extents.length * 512 };
}

function imageOf(
  name: string,
  size: number,
  header: ArchiveHeader,
  archive: Archive,
  problem: ImageError | null,
): Image {
  const uuid = Buffer.from(header.uuid).toString('hex');
  const disks = inBootOrder(
    header.devices.filter(({ isDisk }) => isDisk),
    device => deviceName(device.name),
    header.config('qemu-server.conf'),
  );
  const identity = createHash('sha256').update(header.md5).update(`${uuid} ${size}`).digest('hex');
  const point: ImagePoint = {
    id: `vma:${uuid}` as LayerId,
    parent: null,
    set: setOf(name),
    time: header.created,
    type: 'full',
    disks: disks.map(device => ({
      name: deviceName(device.name),
      size: device.size,
      sectorSize: 512,
      stored: Math.min(device.size, size),
      layer: problem === null ? deviceLayer(`vma:${uuid}/${device.name}` as LayerId, archive, device) : null,
    })),
    identity: `vma:${identity}`,
    problem,
  };
  return {
    adapter: 'vma',
    name,
    encrypted: false,
    points: [point],
    warnings: [],
    ...(problem === null ? { verify: (run: VerifyRun) => check(archive, header, size, run) } : {}),
    [Symbol.asyncDispose]: () => archive[Symbol.asyncDispose](),
  };
}

async function openSource(source: ByteSource, scratch: Scratch | undefined): Promise<Image> {
  const { name, size } = source;
  const head = new Uint8Array(Math.min(16, size));
  await source.read(head, 0);
  const packing = packingFor(head, name);
  if (packing === null) {
    const header = parseHeader(await plainHeader(source), name);
    return imageOf(name, size, header, openArchive(source, header), null);
  }
  const header = parseHeader(await packedHeader(source, packing), name);
  if (scratch === undefined) {
    const refused = mustUnpack(name, packing, name.replace(/\.[^.]+$/, ''));
    return imageOf(name, size, header, openArchive(source, header), refused);
  }
  const archive = openArchive(source, header, () => unpackedSource(source, packing, longest(header), scratch));
  return imageOf(name, size, header, archive, null);
}

function probe(head: Uint8Array, _tail: Uint8Array, name: string): Confidence {
  const isPlain = head.length >= HEADER && [0x56, 0x4d, 0x41, 0x00].every((byte, i) => head[i] === byte);
  return isPlain || packingFor(head, name) !== null ? 'certain' : 'no';
}

/** Notes and logs that vzdump writes beside an archive. */
const BESIDE = /(?:^|\/)vzdump-qemu-\d+-[\d_]+-[\d_]+(?:\.log|\.vma(?:\.(?:zst|gz|lzo))?\.(?:notes|protected))$/;

/**
 * Reads VMA archives. Compressed ones are unpacked into scratch space when they are first read, once; without any they
 * are listed, and say how to unpack them.
 */
export const vma: Adapter = {
  name: 'vma',
  title: 'Proxmox VE archive (vzdump)',
  extensions: ['.vma', '.vma.zst', '.vma.gz', '.vma.lzo'],
  supports: { differencing: false, encryption: false, compression: true, write: false },
  probe,
  owns: name => BESIDE.test(name),
  async open(name: string, store: Store, _keys: Keyring, scratch?: Scratch) {
    const source = await store.open(name);
    try {
      return await openSource(source, scratch);
    } catch (error) {
      await source[Symbol.asyncDispose]();
      throw error;
    }
  },
};

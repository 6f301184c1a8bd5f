/** What was saved of one partition, opened as a volume. */
import type { Volume } from '../../src/base/assemble.ts';
import type { ByteSource, Bytes, Scratch, Verified, VerifyRun } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { PACKINGS, type Packing, packedHead, unpackedSource, unpacking } from '../../src/base/packing/packing.ts';
import { checkPieces, type Folder, type Stream, streamSource } from './folder.ts';
import { HEADER_1, hasMagic, type ImageHeader, parseHeader } from './structs.ts';
import { verifyVolume } from './verify.ts';
import { partcloneVolume, unchecked, unitsOf } from './volume.ts';

export interface SavedVolume extends AsyncDisposable {
  readonly volume: Volume;
  /** null where only the partition table knows: a copy byte by byte that is still compressed. */
  readonly size: Bytes | null;
  readonly stored: Bytes;
  /** Of its first bytes; null for a copy byte by byte. */
  readonly header: ImageHeader | null;
  readonly warnings: readonly string[];
  verify(run: VerifyRun, disk: string): Promise<Verified>;
}

const nothingPacked = (file: string) => (): Promise<void> =>
  Promise.reject(new ImageError('out-of-range', 'nothing is packed in this file', { file }));

/** A copy byte by byte. */
export function rawVolume(source: ByteSource): Volume {
  return {
    blockSize: 4096,
    units: 0,
    locate(at, limit) {
      if (at >= source.size) return { kind: 'zero', length: limit };
      return { kind: 'plain', source, at, length: Math.min(limit, source.size - at) };
    },
    async load() {},
    unpack: nothingPacked(source.name),
  };
}

/** A volume that is opened when it is first read. */
function laterVolume(shape: Pick<Volume, 'blockSize' | 'units'>, open: () => Promise<Volume>): Volume {
  let opened: Volume | null = null;
  let opening: Promise<Volume> | null = null;
  const ready = (): Promise<Volume> => {
    opening ??= open().then(
      volume => {
        opened = volume;
        return volume;
      },
      (error: unknown) => {
        opening = null;
        throw error;
      },
    );
    return opening;
  };
  return {
    ...shape,
    locate: (at, limit) => opened?.locate(at, limit) ?? null,
    load: async (at, limit) => (await ready()).load(at, limit),
    deferred: () => opened === null,
    unpack: async (unit, into) => (await ready()).unpack(unit, into),
  };
}

/** More than this an image with this header cannot hold. */
const longest = ({ dataAt, blocks, blockSize, sumSize, blocksPerSum }: ImageHeader): Bytes =>
  dataAt + blocks * blockSize + (sumSize === 0 ? 0 : Math.ceil(blocks / blocksPerSum) * Math.max(8, sumSize));

/** What a person can unpack it with: the ending that Clonezilla gives it says how, where no program is known here. */
const commandOf = (packing: string): string =>
  packing in PACKINGS ? PACKINGS[packing as keyof typeof PACKINGS].command : 'lrzip -d -o -';

function mustUnpack(folder: Folder, { bare, stem, packing }: Stream): ImageError {
  const file = folder.path + stem;
  const all = `${stem}${folder.entries.has(stem) ? '' : '.*'}`;
  const hint = `in the image's folder: cat ${all} | ${commandOf(packing)} > ${bare}.uncomp`;
  return new ImageError('unsupported', `compressed (${packing}): unpack it first`, { file }, { hint });
}

interface Opening {
  readonly folder: Folder;
  readonly stream: Stream;
  readonly source: ByteSource;
  readonly scratch: Scratch | undefined;
  /** Length of its partition; null where nothing says. */
  readonly room: Bytes | null;
}

/** A compressed file, of which only the header is read before it is unpacked. Throws what `refused` gives for one that cannot be. */
export async function packedVolume(
  source: ByteSource,
  packing: Packing,
  scratch: Scratch,
  room: Bytes | null,
  refused: () => ImageError,
): Promise<SavedVolume> {
  const head = (await packedHead(source, packing, () => HEADER_1)).subarray(0, HEADER_1);
  const header = hasMagic(head) ? parseHeader(head, source.name) : null;
  const most = header === null ? room : longest(header);
  if (most === null) throw refused();
  let plain: Promise<ByteSource> | null = null;
  const once = (opening: () => Promise<ByteSource>): Promise<ByteSource> => {
    plain ??= opening().catch((error: unknown) => {
      plain = null;
      throw error;
    });
    return plain;
  };
  const whole = (): Promise<ByteSource> => unpackedSource(source, packing, most, scratch);
  const doubt = header === null ? null : unchecked(header);
  // What has checksums of its own is read while the rest is coming. Where checksums lie in version 0001, its length tells.
  const open =
    header !== null && header.version === '0002' && doubt === null
      ? async () => scratch.growing(await unpacking(source, packing, most))
      : whole;
  const volumeIn = async () => {
    const file = await once(open);
    return header === null ? rawVolume(file) : partcloneVolume(file, header);
  };
  return {
    volume: laterVolume(header === null ? { blockSize: 4096, units: 0 } : unitsOf(header), volumeIn),
    size: header?.size ?? null,
    stored: source.size,
    header,
    warnings: doubt === null ? [] : [`${source.name}: ${doubt}`],
    async verify(run, disk) {
      await using file = await whole();
      if (header === null) return { checked: 0, bytes: 0 };
      return await verifyVolume(partcloneVolume(file, header), run, disk);
    },
    async [Symbol.asyncDispose]() {
      await (await plain?.catch(() => null))?.[Symbol.asyncDispose]();
      await source[Symbol.asyncDispose]();
    },
  };
}

async function openPacked(opening: Opening): Promise<SavedVolume> {
  const { folder, stream, source, scratch, room } = opening;
  const refused = (): ImageError => mustUnpack(folder, stream);
  if (scratch === undefined || !(stream.packing in PACKINGS)) throw refused();
  return packedVolume(source, PACKINGS[stream.packing as keyof typeof PACKINGS], scratch, room, refused);
}

async function openPlain(source: ByteSource, stream: Stream): Promise<SavedVolume> {
  const head = new Uint8Array(Math.min(HEADER_1, source.size));
  await source.read(head, 0);
  const isCopy = !hasMagic(head) && (stream.tool === 'dd' || stream.bare.endsWith('.dd-ptcl-img'));
  const close = () => source[Symbol.asyncDispose]();
  if (isCopy) {
    const verify = async () => ({ checked: 0, bytes: 0 });
    const [stored, size] = [source.size, source.size];
    return {
      volume: rawVolume(source),
      size,
      stored,
      header: null,
      warnings: [],
      verify,
      [Symbol.asyncDispose]: close,
    };
  }
  const header = parseHeader(head, source.name);
  const volume = partcloneVolume(source, header);
  const doubt = unchecked(header);
  return {
    volume,
    size: header.size,
    stored: source.size,
    header,
    warnings: doubt === null ? [] : [`${source.name}: ${doubt}`],
    verify: (run, disk) => verifyVolume(volume, run, disk),
    [Symbol.asyncDispose]: close,
  };
}

/** Throws 'broken-chain' for missing pieces, 'unsupported' for what cannot be read, 'corrupt' for damage. */
export async function openSaved(
  folder: Folder,
  stream: Stream,
  scratch: Scratch | undefined,
  room: Bytes | null,
): Promise<SavedVolume> {
  checkPieces(stream);
  if (stream.tool === 'ntfs') {
    const file = folder.path + stream.stem;
    throw new ImageError('unsupported', 'saved by ntfsclone, whose images are not read here', { file });
  }
  const source = streamSource(folder, stream);
  try {
    if (stream.packing === '') return await openPlain(source, stream);
    return await openPacked({ folder, stream, source, scratch, room });
  } catch (error) {
    await source[Symbol.asyncDispose]();
    throw error;
  }
}

import { createHash } from 'node:crypto';
import { memorySource } from '../../src/base/assemble.ts';
import type {
  Adapter,
  ByteSource,
  Bytes,
  Confidence,
  Image,
  ImageDisk,
  ImagePoint,
  LayerId,
  Scratch,
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
import { roundUp } from '../../src/base/range.ts';
import { isTarHeader, parseHeader, SECTOR } from '../../src/base/tar.ts';
import { type Archive, BLOCK, memberAt, openArchive } from './archive.ts';
import { archiveLayer } from './layer.ts';
import { compactTime, type Machine, type MachineDisk, parseMachine } from './machine.ts';
import { verifyArchive } from './verify.ts';

const DESCRIPTION = 'ova.xml';
const LONGEST_DESCRIPTION = 16 * 2 ** 20;

/** As the products compress them; the name need not say so. */
const USED = [PACKINGS.gz, PACKINGS.zst];

const packingFor = (head: Uint8Array, name: string): Packing | null =>
  /\.xva(\.gz|\.zst)?$/i.test(name) ? packingOf(head, USED) : null;

const refuseLong = (length: Bytes, file: string, at: Bytes): void => {
  if (length <= LONGEST_DESCRIPTION) return;
  throw new ImageError('unsupported', `an ova.xml of ${length} bytes is too long`, { file, at });
};

/** How much of an archive's front is needed to read its description, as far as `got` says. */
function descriptionEnd(got: Uint8Array, file: string): Bytes {
  for (let at = 0; ; ) {
    if (got.length < at + SECTOR) return at + SECTOR;
    const { type, size } = parseHeader(got.subarray(at, at + SECTOR), at, file);
    refuseLong(size, file, at);
    at += SECTOR + roundUp(size, SECTOR);
    if (!'xgL'.includes(type)) return at;
  }
}

/** The description of a compressed archive. */
async function packedDescription(source: ByteSource, packing: Packing): Promise<Uint8Array> {
  const { name } = source;
  const front = await packedHead(source, packing, got => descriptionEnd(got, name));
  return readDescription(memorySource(name, front));
}

/** More than this an archive of these disks cannot hold, whatever checksums and extra headers it has; null: nobody knows. */
const longest = (disks: readonly MachineDisk[]): Bytes | null =>
  disks.reduce<Bytes | null>(
    (sum, { size }) => (sum === null || size === null ? null : sum + Math.ceil(size / BLOCK) * (BLOCK + 8 * SECTOR)),
    disks.length === 0 ? null : 2 * LONGEST_DESCRIPTION,
  );

async function readDescription(source: ByteSource): Promise<Uint8Array> {
  const file = source.name;
  const first = await memberAt(source, 0);
  if (first?.header.name.replace(/^\.\//, '') !== DESCRIPTION) {
    throw new ImageError('not-this-format', 'the archive does not begin with ova.xml', { file, at: 0 });
  }
  refuseLong(first.header.size, file, first.dataAt);
  const raw = new Uint8Array(first.header.size);
  await source.read(raw, first.dataAt);
  return raw;
}

/** Where the description has no sizes, a disk ends with its last block, which is always in the archive. */
async function sizesByBlocks(archive: Archive, described: readonly MachineDisk[]): Promise<readonly MachineDisk[]> {
  if (described.length > 0 && described.every(({ size }) => size !== null)) return described;
  const fault = await archive.finish();
  if (fault !== null) throw fault;
  const refs = described.length > 0 ? described.map(({ ref }) => ref) : archive.refs();
  return refs.map(ref => {
    const known = described.find(disk => disk.ref === ref)?.size ?? null;
    const { last } = archive.blocks(ref);
    const tail = archive.blocks(ref).find(last)?.length ?? BLOCK;
    return { ref, size: known ?? last * BLOCK + roundUp(tail, SECTOR) };
  });
}

/** Xen Orchestra names an archive after its time: `20261120T100000Z.xva`. */
const timeOf = (name: string, { snapshotTime }: Machine): Date | null =>
  compactTime(/(?:^|\/)(\d{8}T\d{6}Z)\.xva$/.exec(name)?.[1] ?? '') ?? snapshotTime;

interface Opened {
  readonly archive: Archive;
  readonly machine: Machine;
  readonly sized: readonly MachineDisk[];
  /** The description. */
  readonly raw: Uint8Array;
  /** Why the disks cannot be read; null when they can. */
  readonly refused: ImageError | null;
}

function pointOf({ name, size: fileSize }: ByteSource, { archive, machine, sized, raw, refused }: Opened) {
  const shown = sized.flatMap(({ ref, size }, i): readonly ImageDisk[] => {
    if (size === null) return [];
    const whole: Bytes = roundUp(size, SECTOR);
    const layer = refused === null ? archiveLayer(`xva:${name}/${ref}` as LayerId, archive, ref, whole) : null;
    return [{ name: `disk${i}`, size: whole, sectorSize: 512, stored: Math.min(whole, fileSize), layer }];
  });
  const none = new ImageError('unsupported', 'the archive has no disks', { file: name });
  return {
    id: `xva:${name}` as LayerId,
    parent: null,
    set: machine.name,
    time: timeOf(name, machine),
    type: 'full',
    disks: shown,
    identity: `xva:${createHash('sha256').update(`${fileSize} `).update(raw).digest('hex')}`,
    problem: refused ?? (shown.length === 0 ? none : null),
  } satisfies ImagePoint;
}

/** The archive of a compressed file, which is unpacked when it is first read. */
async function openPacked(source: ByteSource, packing: Packing, scratch: Scratch | undefined): Promise<Opened> {
  const { name } = source;
  const raw = await packedDescription(source, packing);
  const machine = parseMachine(new TextDecoder().decode(raw), name);
  if (scratch === undefined) {
    const plain = name.replace(/(\.gz|\.zst)$/i, '').replace(/\.xva$/i, '-unpacked.xva');
    const refused = mustUnpack(name, packing, plain);
    return { archive: openArchive(source), machine, sized: machine.disks, raw, refused };
  }
  const most = longest(machine.disks);
  const archive = openArchive(source, () => unpackedSource(source, packing, most, scratch));
  return { archive, machine, sized: await sizesByBlocks(archive, machine.disks), raw, refused: null };
}

async function openPlain(source: ByteSource): Promise<Opened> {
  const raw = await readDescription(source);
  const machine = parseMachine(new TextDecoder().decode(raw), source.name);
  const archive = openArchive(source);
  return { archive, machine, sized: await sizesByBlocks(archive, machine.disks), raw, refused: null };
}

async function openSource(source: ByteSource, scratch: Scratch | undefined): Promise<Image> {
  const { name, size } = source;
  const head = new Uint8Array(Math.min(SECTOR, size));
  await source.read(head, 0);
  const packing = packingFor(head, name);
  const opened = await (packing === null ? openPlain(source) : openPacked(source, packing, scratch));
  const { archive, sized, refused } = opened;
  const isOdd = packing === null && size % SECTOR !== 0;
  return {
    adapter: 'xva',
    name,
    encrypted: false,
    points: [pointOf(source, opened)],
    warnings: isOdd ? [`${size} bytes are no whole sectors, as an archive has`] : [],
    ...(refused === null ? { verify: (run: VerifyRun) => verifyArchive(archive, sized, run) } : {}),
    async [Symbol.asyncDispose]() {
      if (archive.source !== source) await archive.source[Symbol.asyncDispose]();
      await source[Symbol.asyncDispose]();
    },
  };
}

/** The description comes first; only extra headers may stand before it. */
function probe(head: Uint8Array, _tail: Uint8Array, name: string): Confidence {
  if (packingFor(head, name) !== null) return 'certain';
  for (let at = 0, headers = 0; headers < 4 && isTarHeader(head.subarray(at, at + SECTOR)); headers++) {
    try {
      const member = parseHeader(head.subarray(at, at + SECTOR), at, name);
      if (member.name.replace(/^\.\//, '') === DESCRIPTION) return 'certain';
      if (!'xgL'.includes(member.type)) return 'no';
      at += SECTOR + roundUp(member.size, SECTOR);
    } catch {
      return 'no';
    }
  }
  return 'no';
}

/** Reads the archives that XenServer, XCP-ng and Xen Orchestra export machines to; compressed ones are unpacked into scratch space. */
export const xva: Adapter = {
  name: 'xva',
  title: 'Xen virtual appliance',
  extensions: ['.xva'],
  supports: { differencing: false, encryption: false, compression: true, write: false },
  probe,
  owns: (name, has) => name.endsWith('.xva.checksum') && has(name.slice(0, -'.checksum'.length)),
  async open(name, store, _keys, scratch) {
    const source = await store.open(name);
    try {
      return await openSource(source, scratch);
    } catch (error) {
      await source[Symbol.asyncDispose]();
      throw error;
    }
  },
};

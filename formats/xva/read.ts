import { createHash } from 'node:crypto';
import type {
  Adapter,
  ByteSource,
  Bytes,
  Confidence,
  Image,
  ImageDisk,
  ImagePoint,
  LayerId,
} from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { roundUp } from '../../src/base/range.ts';
import { type Archive, BLOCK, memberAt, openArchive } from './archive.ts';
import { archiveLayer } from './layer.ts';
import { compactTime, type Machine, type MachineDisk, parseMachine } from './machine.ts';
import { isTarHeader, parseHeader, SECTOR } from './tar.ts';
import { verifyArchive } from './verify.ts';

const DESCRIPTION = 'ova.xml';
const LONGEST_DESCRIPTION = 16 * 2 ** 20;

interface Packing {
  readonly magic: readonly number[];
  readonly command: string;
}
const PACKINGS: readonly Packing[] = [
  { magic: [0x1f, 0x8b], command: 'gunzip -c' },
  { magic: [0x28, 0xb5, 0x2f, 0xfd], command: 'zstd -dc' },
];

const packingOf = (head: Uint8Array, name: string): Packing | undefined =>
  /\.xva(\.gz|\.zst)?$/i.test(name)
    ? PACKINGS.find(({ magic }) => magic.every((byte, i) => head[i] === byte))
    : undefined;

async function readDescription(source: ByteSource): Promise<Uint8Array> {
  const file = source.name;
  const first = await memberAt(source, 0);
  if (first?.header.name.replace(/^\.\//, '') !== DESCRIPTION) {
    throw new ImageError('not-this-format', 'the archive does not begin with ova.xml', { file, at: 0 });
  }
  if (first.header.size > LONGEST_DESCRIPTION) {
    const message = `an ova.xml of ${first.header.size} bytes is too long`;
    throw new ImageError('unsupported', message, { file, at: first.dataAt });
  }
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

function pointOf(name: string, archive: Archive, machine: Machine, sized: readonly MachineDisk[], raw: Uint8Array) {
  const { size: fileSize } = archive.source;
  const shown = sized.flatMap(({ ref, size }, i): readonly ImageDisk[] => {
    if (size === null) return [];
    const whole: Bytes = roundUp(size, SECTOR);
    const layer = archiveLayer(`xva:${name}/${ref}` as LayerId, archive, ref, whole);
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
    problem: shown.length === 0 ? none : null,
  } satisfies ImagePoint;
}

async function openSource(source: ByteSource): Promise<Image> {
  const { name } = source;
  const head = new Uint8Array(Math.min(SECTOR, source.size));
  await source.read(head, 0);
  const packing = packingOf(head, name);
  if (packing !== undefined) {
    const plain = name.replace(/(\.gz|\.zst)$/i, '').replace(/\.xva$/i, '-unpacked.xva');
    throw new ImageError(
      'unsupported',
      'a compressed archive can be read only from its front: unpack it first',
      { file: name },
      { hint: `${packing.command} < ${JSON.stringify(name)} > ${JSON.stringify(plain)}` },
    );
  }
  const raw = await readDescription(source);
  const machine = parseMachine(new TextDecoder().decode(raw), name);
  const archive = openArchive(source);
  const sized = await sizesByBlocks(archive, machine.disks);
  return {
    adapter: 'xva',
    name,
    encrypted: false,
    points: [pointOf(name, archive, machine, sized, raw)],
    warnings: source.size % SECTOR === 0 ? [] : [`${source.size} bytes are no whole sectors, as an archive has`],
    verify: run => verifyArchive(archive, sized, run),
    [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
  };
}

/** The description comes first; only extra headers may stand before it. */
function probe(head: Uint8Array, _tail: Uint8Array, name: string): Confidence {
  if (packingOf(head, name) !== undefined) return 'certain';
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

/** Reads the archives that XenServer, XCP-ng and Xen Orchestra export machines to, as far as they are not compressed. */
export const xva: Adapter = {
  name: 'xva',
  title: 'Xen virtual appliance',
  extensions: ['.xva'],
  supports: { differencing: false, encryption: false, compression: false, write: false },
  probe,
  owns: (name, has) => name.endsWith('.xva.checksum') && has(name.slice(0, -'.checksum'.length)),
  async open(name, store) {
    const source = await store.open(name);
    try {
      return await openSource(source);
    } catch (error) {
      await source[Symbol.asyncDispose]();
      throw error;
    }
  },
};

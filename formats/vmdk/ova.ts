/** OVA: a tar archive with an OVF descriptor first, and the disks of one virtual machine as VMDK files (DSP0243, section 6.3). */
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
  Store,
} from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { isTarHeader } from '../../src/base/tar.ts';
import { type OpenedDisk, openDisk } from './disk.ts';
import { zeroLayer } from './layer.ts';
import { verifyManifest } from './manifest.ts';
import type { Opener } from './names.ts';
import { type Ovf, type OvfDisk, parseOvf } from './ovf.ts';
import { SECTOR } from './structs.ts';
import { type Member, tarMembers } from './tar.ts';

const LONGEST_OVF: Bytes = 16_777_216;

/** A member as a file of its own. Closing it does nothing: the archive is closed once. */
function memberSource(archive: ByteSource, member: Member): ByteSource {
  const { at: from, size } = member;
  const { extent } = archive;
  return {
    name: `${archive.name}:${member.name}`,
    size,
    read(into, at) {
      if (at < 0 || at + into.length > size) {
        const there = Math.max(0, size - at);
        throw new ImageError('corrupt', `the file ends early: ${there} of ${into.length} bytes`, {
          file: `${archive.name}:${member.name}`,
          at,
        });
      }
      return archive.read(into, from + at);
    },
    ...(extent === undefined ? {} : { extent: (at: Bytes, limit: Bytes) => extent.call(archive, from + at, limit) }),
    async [Symbol.asyncDispose]() {},
  };
}

const unlisted = (name: string): ImageError =>
  new ImageError('not-found', 'no such file in the archive', { file: name });

async function readOvf(
  archive: ByteSource,
  members: readonly Member[],
): Promise<{ ovf: Ovf; raw: Uint8Array; member: Member }> {
  const member = members.find(each => each.name.toLowerCase().endsWith('.ovf'));
  if (member === undefined)
    throw new ImageError('not-this-format', 'the archive has no OVF descriptor', { file: archive.name });
  if (member.size > LONGEST_OVF) {
    throw new ImageError('unsupported', `an OVF descriptor of ${member.size} bytes is too long`, {
      file: archive.name,
      at: member.at,
    });
  }
  const raw = new Uint8Array(member.size);
  await archive.read(raw, member.at);
  return { ovf: parseOvf(new TextDecoder().decode(raw), `${archive.name}:${member.name}`), raw, member };
}

interface Shown {
  readonly disk: ImageDisk;
  readonly identity: string;
  readonly problem: ImageError | null;
  readonly warnings: readonly string[];
}

const broken = (name: string, size: Bytes, problem: ImageError): Shown => ({
  disk: { name, size, sectorSize: SECTOR, stored: 0, layer: null },
  identity: 'broken',
  problem,
  warnings: [],
});

function emptyDisk(name: string, size: Bytes): Shown {
  const layer = zeroLayer(`ova:empty:${name}` as LayerId, size);
  return {
    disk: { name, size, sectorSize: SECTOR, stored: 0, layer },
    identity: `empty ${size}`,
    problem: null,
    warnings: [],
  };
}

function shownDisk(name: string, opened: OpenedDisk, described: OvfDisk): Shown {
  const { size, stored, layer, identity } = opened;
  const warnings = [...opened.warnings];
  if (described.capacity !== null && described.capacity !== size) {
    warnings.push(`${name} has ${size} bytes, the OVF descriptor says ${described.capacity}`);
  }
  const below = 'a disk in an archive cannot lie over another one';
  const problem =
    opened.problem ??
    (opened.parent === null ? null : new ImageError('unsupported', below, { file: described.file ?? name }));
  return {
    disk: { name, size, sectorSize: SECTOR, stored, layer: problem === null ? layer : null },
    identity,
    problem,
    warnings,
  };
}

async function showDisk(name: string, described: OvfDisk, archive: ByteSource, open: Opener): Promise<Shown> {
  const capacity = described.capacity ?? 0;
  const where = { file: archive.name, field: described.id };
  if (described.problem !== null) {
    return broken(
      name,
      capacity,
      new ImageError('unsupported', `disk ${JSON.stringify(described.id)} cannot be read: ${described.problem}`, where),
    );
  }
  if (described.file === null) {
    if (capacity > 0 && capacity % SECTOR === 0) return emptyDisk(name, capacity);
    return broken(
      name,
      capacity,
      new ImageError('corrupt', `the size of the empty disk ${JSON.stringify(described.id)} is not told`, where),
    );
  }
  try {
    const opened = await openDisk(described.file, await open(described.file), open);
    if (opened !== null) return shownDisk(name, opened, described);
    return broken(name, capacity, new ImageError('unsupported', `${described.file} is only a part of a disk`, where));
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    if (error.fault !== 'not-found') return broken(name, capacity, error);
    return broken(
      name,
      capacity,
      new ImageError('broken-chain', `the file ${JSON.stringify(described.file)} is missing in the archive`, where),
    );
  }
}

async function readArchive(name: string, archive: ByteSource): Promise<Image> {
  const members = await tarMembers(archive);
  const { ovf, raw, member } = await readOvf(archive, members);
  const open: Opener = async wanted => {
    const found = members.find(each => each.name === wanted || each.name === `./${wanted}`);
    if (found === undefined) throw unlisted(wanted);
    return memberSource(archive, found);
  };
  const shown: Shown[] = [];
  for (const [i, described] of ovf.disks.entries()) shown.push(await showDisk(`disk${i}`, described, archive, open));
  const digest = createHash('sha256').update(`ova ${archive.size}`).update(raw);
  for (const each of shown) digest.update(`\n${each.identity}`);
  const noDisks = new ImageError('unsupported', 'the OVF descriptor lists no disks', { file: name });
  const point: ImagePoint = {
    id: `ova:${name}` as LayerId,
    parent: null,
    set: ovf.machine,
    time: member.modified > 0 ? new Date(member.modified * 1000) : null,
    type: 'full',
    disks: shown.map(each => each.disk),
    identity: `ova:${digest.digest('hex')}`,
    problem: shown.length === 0 ? noDisks : (shown.find(each => each.problem !== null)?.problem ?? null),
  };
  return {
    adapter: 'ova',
    name,
    encrypted: false,
    points: [point],
    warnings: shown.flatMap(each => each.warnings),
    verify: run => verifyManifest(archive, members, run),
    [Symbol.asyncDispose]: () => archive[Symbol.asyncDispose](),
  };
}

async function openImage(name: string, store: Store): Promise<Image> {
  const archive = await store.open(name);
  try {
    return await readArchive(name, archive);
  } catch (error) {
    await archive[Symbol.asyncDispose]();
    throw error;
  }
}

/**
 * The descriptor comes first, only extra headers may stand before it. Where another member does, the archive's name
 * decides; `ova.xml` is first in archives of another kind.
 */
function probe(head: Uint8Array, _tail: Uint8Array, archive: string): Confidence {
  for (let at = 0, headers = 0; headers < 4 && isTarHeader(head.subarray(at, at + 512)); headers++) {
    const raw = Buffer.from(head.subarray(at, at + 512)).toString('latin1');
    const name = raw.slice(0, 100).split('\0', 1)[0]!;
    if (name.toLowerCase().endsWith('.ovf')) return 'certain';
    if (!'xgL'.includes(raw[156]!))
      return archive.toLowerCase().endsWith('.ova') && name !== 'ova.xml' ? 'maybe' : 'no';
    const size = Number.parseInt(raw.slice(124, 136), 8);
    if (!(size >= 0)) return 'no';
    at += 512 + Math.ceil(size / 512) * 512;
  }
  return 'no';
}

/** Reads the disks of a virtual machine that was exported to one file. */
export const ova: Adapter = {
  name: 'ova',
  title: 'Open Virtualization Format archive',
  extensions: ['.ova'],
  supports: { differencing: false, encryption: false, compression: true, write: false },
  probe,
  open: openImage,
};

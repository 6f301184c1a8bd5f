/** Digests that a volume stores of its members: of maps, of indexes, of the digests of chunks (section 6.2). */
import { createHash, type Hash, hash } from 'node:crypto';
import type { Bytes } from '../../src/base/contracts.ts';
import type { ImageStream } from './stream.ts';
import { DEFLATED } from './structs.ts';
import { symbolOf } from './targets.ts';
import { factOf, factsOf, type Volume } from './volume.ts';
import { contentAt, type Member, readMember } from './zip.ts';

const PART: Bytes = 2 ** 20;
const LONGEST_DEFLATED: Bytes = 16 * 2 ** 20;

const ALGORITHMS: ReadonlyMap<string, string> = new Map([
  ['MD5', 'md5'],
  ['SHA1', 'sha1'],
  ['SHA256', 'sha256'],
  ['SHA512', 'sha512'],
  ['Blake2b', 'blake2b512'],
  ['blake2b', 'blake2b512'],
  ['blockMapHashSHA256', 'sha256'],
  ['blockMapHashSHA512', 'sha512'],
]);
/** The order in which block hashes enter the one that covers all. */
const ORDER = ['md5', 'sha1', 'sha256', 'sha512', 'blake2b'] as const;

export interface StoredDigest {
  readonly algorithm: string;
  readonly hex: string;
  readonly isBlockMap: boolean;
}

/** Digests of an object by the name of the property; those of unknown algorithms are left out. */
export function storedDigests({ graph }: Volume, object: string, property: string): readonly StoredDigest[] {
  return factsOf(graph, object, property).flatMap(({ text, type }) => {
    const name = symbolOf(type ?? '') ?? '';
    const algorithm = ALGORITHMS.get(name);
    return algorithm === undefined
      ? []
      : [{ algorithm, hex: text.toLowerCase(), isBlockMap: name.startsWith('block') }];
  });
}

/** A member's bytes, part by part. */
export async function* partsOf(volume: Volume, member: Member): AsyncGenerator<Uint8Array> {
  if (member.method === DEFLATED) return yield await readMember(volume.archive, member, LONGEST_DEFLATED);
  const from = await contentAt(volume.archive, member);
  const whole = new Uint8Array(Math.min(PART, member.packed));
  for (let at = 0; at < member.packed; at += PART) {
    const part = whole.subarray(0, Math.min(PART, member.packed - at));
    await volume.source.read(part, from + at);
    yield part;
  }
}

/** A digest that does not hold: what of, what it is, what is stored, and the member that shows it. */
export interface Mismatch {
  readonly what: string;
  readonly member: Member;
  readonly stored: string;
  readonly computed: string;
}

async function digestOf(volume: Volume, members: readonly Member[], into: Hash): Promise<string> {
  for (const member of members) for await (const part of partsOf(volume, member)) into.update(part);
  return into.digest('hex');
}

interface Claim {
  readonly object: string;
  readonly property: string;
  readonly what: string;
  readonly members: readonly Member[];
}

function mapClaims(volume: Volume, map: string): readonly Claim[] {
  const [points, list, path] = ['map', 'idx', 'mapPath'].map(each => volume.member(`${map}/${each}`));
  const of = (property: string, what: string, members: readonly (Member | null | undefined)[]): readonly Claim[] => {
    const there = members.filter(member => member !== null && member !== undefined);
    return there.length === 0 ? [] : [{ object: map, property, what, members: there }];
  };
  return [
    ...of('mapPointHash', 'the map', [points]),
    ...of('mapIdxHash', 'the list of its streams', [list]),
    ...of('mapPathHash', 'the path of the map', [path]),
    ...of('mapHash', 'the map with its list', [points, list, path]),
  ];
}

function streamClaims(stream: ImageStream): readonly Claim[] {
  const { name } = stream;
  const bevies = Math.ceil(stream.chunks / stream.perBevy);
  const all = (kind: string): readonly Member[] => Array.from({ length: bevies }, (_, i) => stream.member(i, kind));
  return [
    { object: name, property: 'imageStreamIndexHash', what: 'the index', members: all('index') },
    ...stream.hashes.map(kind => ({
      object: `${name}/blockhash.${kind}`,
      property: 'hash',
      what: `the ${kind} digests of the chunks`,
      members: all(kind),
    })),
  ];
}

/** Compares what is claimed with what is there. Gives how many digests were looked at. */
async function checkClaims(volume: Volume, claims: readonly Claim[], wrong: (found: Mismatch) => void) {
  let checked = 0;
  for (const { object, property, what, members } of claims) {
    for (const { algorithm, hex } of storedDigests(volume, object, property)) {
      const computed = await digestOf(volume, members, createHash(algorithm));
      checked++;
      if (computed !== hex) wrong({ what, member: members[0]!, stored: hex, computed });
    }
  }
  return checked;
}

export const checkMapDigests = (volume: Volume, map: string, wrong: (found: Mismatch) => void): Promise<number> =>
  checkClaims(volume, mapClaims(volume, map), wrong);

export const checkStreamDigests = (stream: ImageStream, wrong: (found: Mismatch) => void): Promise<number> =>
  checkClaims(stream.volume, streamClaims(stream), wrong);

/** The digest over all digests of a map and of the chunks of the streams beside it; null where a part is not stored. */
function blockMapDigest(volume: Volume, map: string, streams: readonly ImageStream[], algorithm: string) {
  const parts: string[] = [];
  const add = (object: string, property: string, optional = false): boolean => {
    const found = storedDigests(volume, object, property)[0];
    if (found !== undefined) parts.push(found.hex);
    return found !== undefined || optional;
  };
  const beside = streams.filter(stream => stream.volume === volume);
  const complete =
    beside.every(({ name, hashes }) =>
      ORDER.filter(kind => hashes.includes(kind)).every(kind => add(`${name}/blockhash.${kind}`, 'hash')),
    ) &&
    add(map, 'mapPointHash') &&
    add(map, 'mapIdxHash') &&
    add(map, 'mapPathHash', true);
  return complete ? hash(algorithm, Buffer.from(parts.join(''), 'hex'), 'hex') : null;
}

/**
 * What stands for the whole image: a digest at each volume's map, and one at the image, which is the same where there is
 * one volume. Of several it is over theirs, in the order of the maps' names (as pyaff4 and the reference images have it).
 */
export function checkBlockMaps(
  volumes: readonly Volume[],
  image: string,
  streams: readonly ImageStream[],
  wrong: (found: Mismatch, volume: Volume) => void,
): number {
  const maps = volumes.flatMap(volume => {
    const name = factOf(volume.graph, image, 'dataStream');
    const member = name === null ? null : volume.member(`${name}/map`);
    return member === null ? [] : [{ volume, name: name!, member }];
  });
  let checked = 0;
  const compare = (stored: readonly StoredDigest[], computed: string | null, { volume, member }: (typeof maps)[0]) => {
    for (const { hex } of computed === null ? [] : stored) {
      checked++;
      if (computed !== hex) wrong({ what: 'the image', member, stored: hex, computed: computed! }, volume);
    }
  };
  const ofMaps = (algorithm: string): readonly (string | null)[] =>
    maps
      .toSorted((a, b) => (a.name < b.name ? -1 : 1))
      .map(({ volume, name }) => blockMapDigest(volume, name, streams, algorithm));
  for (const map of maps) {
    for (const stored of storedDigests(map.volume, map.name, 'blockMapHash')) {
      compare([stored], blockMapDigest(map.volume, map.name, streams, stored.algorithm), map);
    }
    for (const stored of storedDigests(map.volume, image, 'hash').filter(({ isBlockMap }) => isBlockMap)) {
      const all = ofMaps(stored.algorithm);
      const known = all.filter(each => each !== null);
      const above = known.length === 1 ? known[0]! : hash(stored.algorithm, Buffer.from(known.join(''), 'hex'), 'hex');
      compare([stored], known.length === all.length ? above : null, map);
    }
  }
  return checked;
}

/**
 * The header of LUKS version 2, "LUKS2 On-Disk Format Specification" 1.1: a binary header and JSON in two copies, each
 * with a checksum and a counter; the sound copy with the higher counter holds.
 */
import { createHash } from 'node:crypto';
import type { Bytes } from '../contracts.ts';
import { ImageError } from '../errors.ts';
import { bytes, struct, u16be, u64be } from '../struct.ts';
import type { LuksHeader } from './index.ts';
import { checkHash, fault, type KeyDerivation, type KeyDigest, type Keyslot, type LuksSource } from './keyslot.ts';
import { fieldOf } from './luks1.ts';

const BINARY = 4096;
/** Lengths that binary header and JSON may have together, and so the places of the second copy. */
const SIZES = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096].map(kib => kib * 1024);
const PRIMARY = Buffer.from('LUKS\xba\xbe', 'latin1');
const SECONDARY = Buffer.from('SKUL\xba\xbe', 'latin1');
const CHECKSUMS = new Set(['sha256', 'sha1', 'sha512']);

const Binary = struct('LUKS2 header', BINARY, {
  magic: [0, bytes(6)],
  version: [6, u16be],
  size: [8, u64be],
  counter: [16, u64be],
  label: [24, bytes(48)],
  checksumHash: [72, bytes(32)],
  salt: [104, bytes(64)],
  uuid: [168, bytes(40)],
  subsystem: [208, bytes(48)],
  at: [256, u64be],
  checksum: [448, bytes(64)],
});

interface Copy {
  readonly counter: number;
  readonly uuid: string;
  readonly label: string;
  readonly json: string;
}

/** The copy at `at`; null unless it is whole. */
async function copyAt(source: LuksSource, at: Bytes, magic: Buffer): Promise<Copy | null> {
  if (at + BINARY > source.size) return null;
  const head = Buffer.alloc(BINARY);
  await source.read(head, at);
  if (!head.subarray(0, 6).equals(magic) || head.readUInt16BE(6) !== 2) return null;
  const header = fields(head);
  if (header === null || header.at !== at || !SIZES.includes(header.size) || at + header.size > source.size)
    return null;
  const hash = fieldOf(header.checksumHash);
  if (!CHECKSUMS.has(hash))
    throw fault(source, 'unsupported', `the checksum ${JSON.stringify(hash)} of LUKS2`, at + 72);
  const json = Buffer.alloc(header.size - BINARY);
  await source.read(json, at + BINARY);
  head.fill(0, 448, 512);
  const sum = createHash(hash).update(head).update(json).digest();
  if (!sum.equals(header.checksum.subarray(0, sum.length))) return null;
  const end = json.indexOf(0);
  return {
    counter: header.counter,
    uuid: fieldOf(header.uuid),
    label: fieldOf(header.label),
    json: json.toString('utf8', 0, end < 0 ? json.length : end),
  };
}

function fields(head: Buffer): ReturnType<typeof Binary.parse> | null {
  try {
    return Binary.parse(head);
  } catch (error) {
    if (error instanceof ImageError) return null;
    throw error;
  }
}

type Json = Readonly<Record<string, unknown>>;

/** Looks into JSON of unknown shape; anything that is not as it should be is 'corrupt', with its path. */
class Node {
  readonly #source: LuksSource;
  readonly path: string;
  readonly #value: unknown;

  constructor(source: LuksSource, path: string, value: unknown) {
    this.#source = source;
    this.path = path;
    this.#value = value;
  }

  #wrong(what: string): ImageError {
    return fault(this.#source, 'corrupt', `LUKS2 metadata: ${this.path} is ${what}`);
  }

  #object(): Json {
    if (typeof this.#value === 'object' && this.#value !== null && !Array.isArray(this.#value)) {
      return this.#value as Json;
    }
    throw this.#wrong('no object');
  }

  has(name: string): boolean {
    return Object.hasOwn(this.#object(), name);
  }

  get(name: string): Node {
    const value = this.has(name) ? this.#object()[name] : undefined;
    return new Node(this.#source, `${this.path}.${name}`, value);
  }

  entries(): readonly (readonly [string, Node])[] {
    return Object.keys(this.#object()).map(name => [name, this.get(name)] as const);
  }

  text(): string {
    if (typeof this.#value !== 'string') throw this.#wrong('no text');
    return this.#value;
  }

  /** Numbers beyond 32 bits are written as text. */
  number(): number {
    const value = typeof this.#value === 'string' && /^\d{1,20}$/.test(this.#value) ? Number(this.#value) : this.#value;
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw this.#wrong('no number');
    return value;
  }

  bytes(): Buffer {
    return Buffer.from(this.text(), 'base64');
  }

  texts(): readonly string[] {
    if (!Array.isArray(this.#value)) throw this.#wrong('no list');
    return this.#value.map(value => new Node(this.#source, `${this.path}[]`, value).text());
  }
}

function derivationOf(source: LuksSource, kdf: Node): KeyDerivation {
  const type = kdf.get('type').text();
  const salt = kdf.get('salt').bytes();
  switch (type) {
    case 'pbkdf2':
      return { type, salt, hash: kdf.get('hash').text(), iterations: kdf.get('iterations').number() };
    case 'argon2i':
    case 'argon2id': {
      const lanes = kdf.get('cpus').number();
      return { type, salt, passes: kdf.get('time').number(), memory: kdf.get('memory').number(), lanes };
    }
    default:
      throw fault(source, 'unsupported', `LUKS2 keys derived by ${JSON.stringify(type)}`);
  }
}

function keyslotOf(source: LuksSource, name: string, slot: Node): Keyslot {
  const area = slot.get('area');
  const split = slot.get('af');
  if (split.get('type').text() !== 'luks1') {
    throw fault(source, 'unsupported', `LUKS2 keyslot ${name}: the split ${JSON.stringify(split.get('type').text())}`);
  }
  return {
    name,
    derivation: derivationOf(source, slot.get('kdf')),
    keySize: slot.get('key_size').number(),
    cipher: area.get('encryption').text(),
    cipherKeySize: area.get('key_size').number(),
    areaAt: area.get('offset').number(),
    stripes: split.get('stripes').number(),
    stripeHash: split.get('hash').text(),
  };
}

/** The one segment that makes up the volume, and the number under which digests name it. */
function segmentOf(source: LuksSource, segments: Node): readonly [string, Node] {
  const shown = segments.entries().filter(([, segment]) => !segment.has('flags'));
  if (shown.length !== 1) throw fault(source, 'unsupported', `a LUKS2 volume of ${shown.length} segments`);
  const [name, segment] = shown[0]!;
  const type = segment.get('type').text();
  if (type !== 'crypt') throw fault(source, 'unsupported', `a LUKS2 segment of type ${JSON.stringify(type)}`);
  if (segment.has('integrity')) throw fault(source, 'unsupported', 'LUKS2 with authenticated encryption');
  return [name, segment];
}

function digestFor(source: LuksSource, digests: Node, segment: string): readonly [readonly string[], KeyDigest] {
  for (const [, digest] of digests.entries()) {
    if (!digest.get('segments').texts().includes(segment)) continue;
    const type = digest.get('type').text();
    if (type !== 'pbkdf2') throw fault(source, 'unsupported', `a LUKS2 digest of type ${JSON.stringify(type)}`);
    const hash = digest.get('hash').text();
    checkHash(source, hash);
    const iterations = digest.get('iterations').number();
    const its = { hash, iterations, salt: digest.get('salt').bytes(), digest: digest.get('digest').bytes() };
    return [digest.get('keyslots').texts(), its];
  }
  throw fault(source, 'corrupt', 'LUKS2 metadata: no digest belongs to the data');
}

/** Keyslots by their priority, those to be left out unless asked for at the end. */
function slotsOf(source: LuksSource, keyslots: Node, names: readonly string[]): readonly Keyslot[] {
  const priority = (slot: Node): number => (slot.has('priority') ? slot.get('priority').number() : 1);
  return keyslots
    .entries()
    .filter(([name, slot]) => names.includes(name) && slot.get('type').text() === 'luks2')
    .toSorted(([, a], [, b]) => priority(b) - priority(a))
    .map(([name, slot]) => keyslotOf(source, name, slot));
}

function refuseRequirements(source: LuksSource, config: Node): void {
  if (!config.has('requirements')) return;
  const requirements = config.get('requirements');
  const needed = requirements.has('mandatory') ? requirements.get('mandatory').texts() : [];
  if (needed.length > 0)
    throw fault(source, 'unsupported', `LUKS2 that requires ${needed.map(n => JSON.stringify(n)).join(', ')}`);
}

const SECTOR_SIZES = [512, 1024, 2048, 4096];

function headerOf(source: LuksSource, { uuid, label, json }: Copy, warnings: readonly string[]): LuksHeader {
  let parsed: unknown;
  try {
    parsed = JSON.parse(json);
  } catch (cause) {
    throw new ImageError('corrupt', 'LUKS2 metadata are no JSON', { file: source.name, at: BINARY }, { cause });
  }
  const root = new Node(source, 'JSON', parsed);
  refuseRequirements(source, root.get('config'));
  const [name, segment] = segmentOf(source, root.get('segments'));
  const [slotNames, digest] = digestFor(source, root.get('digests'), name);
  const sectorSize = segment.get('sector_size').number();
  if (!SECTOR_SIZES.includes(sectorSize)) throw fault(source, 'unsupported', `LUKS2 sectors of ${sectorSize} bytes`);
  const size = segment.get('size');
  return {
    version: 2,
    uuid,
    label,
    cipher: segment.get('encryption').text(),
    sectorSize,
    payloadAt: segment.get('offset').number(),
    payloadSize: segment.has('size') && size.text() !== 'dynamic' ? size.number() : null,
    firstSector: segment.get('iv_tweak').number(),
    slots: slotsOf(source, root.get('keyslots'), slotNames),
    digest,
    warnings,
  };
}

/** null: neither copy is there. 'corrupt' when `isLuks` (the magic was there) and no copy is whole. */
export async function luks2Header(source: LuksSource, isLuks: boolean): Promise<LuksHeader | null> {
  const first = await copyAt(source, 0, PRIMARY);
  let second: Copy | null = null;
  for (const at of SIZES) {
    second = await copyAt(source, at, SECONDARY);
    if (second !== null) break;
  }
  const newer = first !== null && second !== null && second.counter > first.counter ? second : (first ?? second);
  if (newer === null) {
    if (isLuks) throw fault(source, 'corrupt', 'neither copy of the LUKS2 header is whole', 0);
    return null;
  }
  const lost = first === null ? 'first' : second === null ? 'second' : null;
  return headerOf(
    source,
    newer,
    lost === null ? [] : [`the ${lost} copy of the LUKS2 header is damaged: the other one was read`],
  );
}

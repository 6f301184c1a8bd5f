/** Rock Ridge: names, modes and links of Unix in the records of ISO 9660. Sources: IEEE P1281 (SUSP 1.12), P1282 (RRIP 1.12). */
import { nameOf } from '../names.ts';
import type { VolumeSource } from '../source.ts';
import { shortTime } from './time.ts';

const BLOCK = 2048;
const MOST_CONTINUATIONS = 64;
const LONGEST = 65_536;
const NAME_GOES_ON = 1;
const NAME_IS_DOTS = 2 | 4;
const TIME_MODIFIED = 2;
const TIME_LONG = 0x80;
const COMPONENT_GOES_ON = 1;

export interface RockRidge {
  readonly name: string | null;
  readonly mode: number | null;
  readonly links: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtime: Date | null;
  readonly target: string | null;
  /** A folder that was moved up because it lay too deep: where it is now. */
  readonly movedTo: number | null;
  /** This record is the place where such a folder was put. */
  readonly moved: boolean;
  /** Compressed or sparse: the content is not as it is stored. */
  readonly packed: boolean;
}

interface Entry {
  readonly signature: string;
  readonly data: Buffer;
}

/** Entries of a system use field, and of where it goes on. */
async function entriesOf(source: VolumeSource, field: Buffer): Promise<readonly Entry[]> {
  const entries: Entry[] = [];
  let part = field;
  for (let n = 0; n < MOST_CONTINUATIONS; n++) {
    let next: Buffer | null = null;
    for (let at = 0; at + 4 <= part.length; ) {
      const length = part[at + 2]!;
      if (length < 4 || at + length > part.length) break;
      const signature = part.toString('latin1', at, at + 2);
      const data = part.subarray(at, at + length);
      if (signature === 'ST') break;
      if (signature === 'CE' && length >= 28) {
        const size = data.readUInt32LE(20);
        source.check(size <= LONGEST, `a system use field of ${size} bytes`);
        next = await source.bytes(data.readUInt32LE(4) * BLOCK + data.readUInt32LE(12), size);
      } else entries.push({ signature, data });
      at += length;
    }
    if (next === null) return entries;
    part = next;
  }
  throw source.unsupported('a system use field that goes on for ever');
}

/** Components of a link: `.`, `..`, the root, or a name that can go on in the next one. */
class Target {
  readonly #parts: Buffer[] = [];
  #open = false;
  #root = false;

  add(data: Buffer): void {
    for (let at = 5; at + 2 <= data.length; ) {
      const flags = data[at]!;
      const text = data.subarray(at + 2, at + 2 + data[at + 1]!);
      if ((flags & 8) !== 0) this.#root = true;
      else this.#put((flags & 2) !== 0 ? Buffer.from('.') : (flags & 4) !== 0 ? Buffer.from('..') : text, flags);
      at += 2 + data[at + 1]!;
    }
  }

  #put(text: Buffer, flags: number): void {
    if (this.#open) this.#parts.push(Buffer.concat([this.#parts.pop()!, text]));
    else this.#parts.push(text);
    this.#open = (flags & COMPONENT_GOES_ON) !== 0;
  }

  text(): string {
    return (this.#root ? '/' : '') + this.#parts.map(nameOf).join('/');
  }
}

function modifiedIn(data: Buffer): Date | null {
  const flags = data[4]!;
  if ((flags & TIME_MODIFIED) === 0 || (flags & TIME_LONG) !== 0) return null;
  const at = 5 + ((flags & 1) !== 0 ? 7 : 0);
  return at + 7 <= data.length ? shortTime(data, at) : null;
}

export async function rockRidge(source: VolumeSource, field: Buffer): Promise<RockRidge> {
  const entries = await entriesOf(source, field);
  const names: Buffer[] = [];
  let named = false;
  let target: Target | null = null;
  const found: { -readonly [K in keyof RockRidge]: RockRidge[K] } = {
    name: null,
    mode: null,
    links: 1,
    uid: 0,
    gid: 0,
    mtime: null,
    target: null,
    movedTo: null,
    moved: false,
    packed: false,
  };
  for (const { signature, data } of entries) {
    if (signature === 'NM' && data.length >= 5 && !named && (data[4]! & NAME_IS_DOTS) === 0) {
      names.push(data.subarray(5));
      named = (data[4]! & NAME_GOES_ON) === 0;
    } else if (signature === 'PX' && data.length >= 36) {
      found.mode = data.readUInt32LE(4);
      found.links = data.readUInt32LE(12);
      found.uid = data.readUInt32LE(20);
      found.gid = data.readUInt32LE(28);
    } else if (signature === 'TF' && data.length >= 5) found.mtime = modifiedIn(data);
    else if (signature === 'SL' && data.length >= 5) {
      target ??= new Target();
      target.add(data);
    } else if (signature === 'CL' && data.length >= 12) found.movedTo = data.readUInt32LE(4);
    else if (signature === 'RE') found.moved = true;
    else if (signature === 'ZF' || signature === 'SF') found.packed = true;
  }
  if (names.length > 0) found.name = nameOf(Buffer.concat(names));
  found.target = target?.text() ?? null;
  return found;
}

/**
 * Copying what a restore point needs of a range of layers into one file (section 11): records byte for byte, nodes with new
 * places. Nothing here can open a block: there is no key.
 */
import type { ByteFile, Bytes } from '../../src/base/contracts.ts';
import { roundUp } from '../../src/base/range.ts';
import { viewOf } from '../../src/base/struct.ts';
import { compressNow, NODE_LEVEL } from './codec.ts';
import type { PlacedCommit } from './commit.ts';
import type { Place } from './crypto.ts';
import { DATA, ENTRY, type Entry, entryAt, FANOUT, kindAt, NODE, nodePage, putEntry } from './node.ts';
import { type Found, fetchNode, fetchRecord, type NodePlace, type Objects } from './objects.ts';
import { bodyFits, buildRecord, storedHeaderCrc, storedTag } from './record.ts';
import { RecordSum } from './record-sum.ts';
import type { SetFile } from './shelf.ts';
import {
  ALIGN,
  type Cipher,
  COMMIT_HEADER,
  commitHeader,
  corrupt,
  diskEntry,
  FIRST_RECORD,
  PAGE,
  sameBytes,
  sealCrc,
} from './structs.ts';

const BUFFER = 4 * 2 ** 20;
const ROOT = diskEntry.offsetOf('root');

/** Appends to a file that is written from front to back, in large writes. */
export class Appender {
  readonly #file: ByteFile;
  readonly #buffer = new Uint8Array(BUFFER);
  #used = 0;
  #flushed: Bytes;

  constructor(file: ByteFile, from: Bytes) {
    this.#file = file;
    this.#flushed = from;
  }

  /** Of the records that were appended. */
  readonly sum = new RecordSum();

  get end(): Bytes {
    return this.#flushed + this.#used;
  }

  /** Where the bytes begin, after zeros up to a multiple of `align`. */
  async append(bytes: Uint8Array, align: number): Promise<Bytes> {
    await this.#zeros(roundUp(this.end, align) - this.end);
    const at = this.end;
    for (let done = 0; done < bytes.length; ) {
      if (this.#used === BUFFER) await this.flush();
      const part = bytes.subarray(done, done + BUFFER - this.#used);
      this.#buffer.set(part, this.#used);
      this.#used += part.length;
      done += part.length;
    }
    return at;
  }

  /** As `append`, for a record. */
  async record(bytes: Uint8Array): Promise<Bytes> {
    const at = await this.append(bytes, ALIGN);
    this.sum.add(at, storedHeaderCrc(bytes));
    return at;
  }

  async #zeros(length: number): Promise<void> {
    if (this.#used + length > BUFFER) await this.flush();
    this.#buffer.fill(0, this.#used, this.#used + length);
    this.#used += length;
  }

  async flush(): Promise<void> {
    await this.#file.write(this.#buffer.subarray(0, this.#used), this.#flushed);
    this.#flushed += this.#used;
    this.#used = 0;
  }
}

/** What is walked: the part of a point's trees that lies in the range. */
export interface Walk {
  readonly objects: Objects;
  /** By line of the layer table: 1 where the layer is in the range. */
  readonly inRange: Uint8Array;
  /** Objects met, by line. */
  readonly met: number[];
  readonly signal: AbortSignal;
  /** Takes an object, header and body; where it lies from now on. */
  store(place: Place, line: number, record: Uint8Array, hint: Bytes): Promise<Bytes> | Bytes;
}

/** Checks what can be checked without a key: the checksum and, of an encrypted block, that its tag or digest is the wanted one. */
function sound(found: Found, entry: Entry, place: Place, cipher: Cipher): Uint8Array {
  const { record, file, at } = found;
  const bad = (why: string): never => {
    throw corrupt(`disk ${place.disk}, block ${place.index}: ${why}`, file.name, at);
  };
  if (!bodyFits(record)) bad('the record fails its checksum');
  const tag = storedTag(record, cipher);
  if (tag !== null && !sameBytes(tag, entry.tag)) bad('the record is another version of the block');
  return record;
}

/** What lies below an entry of a node at `level`, children first; the entry with its new place. */
async function below(
  on: Walk,
  entry: Entry,
  level: number,
  at: NodePlace,
  blockSize: Bytes,
  first: SetFile | null,
): Promise<Entry> {
  // Below a node of an older layer everything is older still.
  if (on.inRange[entry.line] !== 1) return entry;
  on.signal.throwIfAborted();
  on.met[entry.line] = (on.met[entry.line] ?? 0) + 1;
  const { objects } = on;
  const { layer } = objects.lines[entry.line]!;
  const { setId } = objects;
  if (entry.kind === DATA) {
    const place: Place = { setId, layer, kind: 'data', disk: at.disk, index: at.position, level: 0 };
    const record = await fetchRecord(objects, entry, place, first, found => sound(found, entry, place, objects.cipher));
    return { ...entry, hint: await on.store(place, entry.line, record, entry.hint) };
  }
  const node = await fetchNode(objects, entry, at, first, blockSize);
  const bytes = node.bytes.slice();
  const { view } = nodePage(bytes);
  for (let slot = 0; slot < FANOUT; slot++) {
    const kind = kindAt(view, slot * ENTRY);
    if (kind !== DATA && kind !== NODE) continue;
    const under = { disk: at.disk, level: level - 2, position: at.position * FANOUT + slot };
    putEntry(view, slot * ENTRY, await below(on, entryAt(view, slot * ENTRY), level - 1, under, blockSize, node.file));
  }
  const place: Place = { setId, layer, kind: 'node', disk: at.disk, index: at.position, level: at.level };
  const packed = compressNow(bytes, NODE_LEVEL);
  const body = packed ?? bytes;
  const codec = packed === null ? 0 : 1;
  const record = buildRecord(place, entry.session, codec, 0, PAGE, [body]);
  return { ...entry, codec, stored: body.length, hint: await on.store(place, entry.line, record, entry.hint) };
}

/** Walks all trees of a commit; its root entries with their new places, by disk. */
export async function walkTrees(on: Walk, commit: PlacedCommit, file: SetFile): Promise<Uint8Array[]> {
  const roots: Uint8Array[] = [];
  for (const { number, height, blockSize, root } of commit.disks) {
    const out = root.slice();
    const { view } = nodePage(out);
    const kind = kindAt(view, 0);
    if (kind === DATA || kind === NODE) {
      const top = { disk: number, level: height, position: 0 };
      putEntry(view, 0, await below(on, entryAt(view, 0), height + 1, top, blockSize, file));
    }
    roots.push(out);
  }
  for (const [i, line] of on.objects.lines.entries()) {
    if (on.inRange[i] !== 1 || (on.met[i] ?? 0) === line.live) continue;
    const message = `layer table: line ${i} counts ${line.live} objects, the trees refer to ${on.met[i] ?? 0}`;
    throw corrupt(message, file.name, commit.tableAt);
  }
  return roots;
}

/** The commit's bytes with other places in them. What its hash covers stays as it was. */
export function movedCommit(bytes: Uint8Array, roots: readonly Uint8Array[], tableAt: Bytes): Uint8Array {
  const moved = bytes.slice();
  for (const [i, root] of roots.entries()) moved.set(root, COMMIT_HEADER + i * diskEntry.size + ROOT);
  const view = viewOf(moved);
  const put = (at: number, value: number): void => {
    view.setUint32(at, value % 0x1_0000_0000, true);
    view.setUint32(at + 4, Math.floor(value / 0x1_0000_0000), true);
  };
  put(commitHeader.offsetOf('tableAt'), tableAt);
  put(commitHeader.offsetOf('previousAt'), 0);
  put(commitHeader.offsetOf('firstAt'), FIRST_RECORD);
  sealCrc(moved);
  return moved;
}

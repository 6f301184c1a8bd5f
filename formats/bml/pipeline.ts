/** A run of a writer: it appends records to the file of an open layer. */
import type { ByteFile, Bytes } from '../../src/base/contracts.ts';
import { roundUp } from '../../src/base/range.ts';
import { compressNow, NODE_LEVEL } from './codec.ts';
import type { Place } from './crypto.ts';
import { DATA, type Entry, NODE, nodeHash, TAG } from './node.ts';
import { type Batch, DONE, JOB, type PackSpec } from './pack.ts';
import { buildRecord, hasTag, headerFits, paddedLength, recordLength, storedHeaderCrc } from './record.ts';
import { RecordSum } from './record-sum.ts';
import { type Slot, Space } from './space.ts';
import { ALIGN, corrupt, FIRST_RECORD, RECORD_HEADER } from './structs.ts';

/** Index of metadata records that only fill a place. */
const FILLER = 2;

export interface SessionSpec extends PackSpec {
  /** Line of the layer table that the session has. */
  readonly line: number;
}

/** Records that are there already, and where they end. */
export interface Before {
  readonly end: Bytes;
  readonly records: number;
  readonly sum: RecordSum;
}

/** Appends records. Every encryption takes the next counter, so that none is used twice under the session's key. */
export class Session {
  readonly spec: SessionSpec;
  readonly #file: ByteFile;
  #end: Bytes;
  readonly #space = new Space();
  #counter = 0;
  #records: number;

  /** Of all records in the file. */
  readonly sum: RecordSum;

  constructor(file: ByteFile, spec: SessionSpec, before: Before | null) {
    this.#file = file;
    this.spec = spec;
    this.#end = before?.end ?? FIRST_RECORD;
    this.#records = before?.records ?? 0;
    this.sum = before?.sum ?? new RecordSum();
  }

  get end(): Bytes {
    return this.#end;
  }

  get records(): number {
    return this.#records;
  }

  /** Where the record went: to the place of one that was replaced, or to the end. */
  async append(record: Uint8Array): Promise<Bytes> {
    this.#records++;
    const slot = this.#space.take(record.length);
    if (slot === null) {
      const at = this.#end;
      this.#end += record.length;
      await this.#write(record, at);
      return at;
    }
    await this.#forget(slot);
    await this.#write(record, slot.at);
    // Records follow each other without gaps: what is left of the place is one too.
    const left = slot.capacity - record.length;
    if (left > 0) await this.#write(this.#filler(left), slot.at + record.length);
    return slot.at;
  }

  async #write(record: Uint8Array, at: Bytes): Promise<void> {
    this.sum.add(at, storedHeaderCrc(record));
    await this.#file.write(record, at);
  }

  /** Takes what lies in a place that is used again out of the sum: a record, and what filled the rest. */
  async #forget({ at, capacity }: Slot): Promise<void> {
    const header = new Uint8Array(RECORD_HEADER);
    for (let next = at; next < at + capacity; next += paddedLength(header)) {
      await this.#file.read(header, next);
      if (!headerFits(header)) throw corrupt('a record that was written is not there', this.#file.name, next);
      this.sum.remove(next, storedHeaderCrc(header));
    }
  }

  #filler(length: Bytes): Uint8Array {
    const body = new Uint8Array(length - RECORD_HEADER);
    return buildRecord(this.#place('metadata', 0, FILLER, 0), 0, 0, 0, body.length, [body]);
  }

  /** The object of an entry of this layer was replaced before the commit. */
  release(entry: Entry): void {
    const length = recordLength(entry.stored, entry.kind === DATA && hasTag(this.spec.cipher));
    this.#space.release(entry.hint, roundUp(length, ALIGN));
  }

  #place(kind: Place['kind'], disk: number, index: number, level: number): Place {
    const { setId, layer } = this.spec;
    return { setId, layer, kind, disk, index, level };
  }

  /** Numbers that no other block of the session gets: what an encryption needs. */
  takeCounter(): number {
    return this.#counter++;
  }

  /** Where the records of a batch went; null for those of which `current` says that they are not wanted any more. */
  async appendBatch(batch: Batch, count: number, current: (i: number) => boolean): Promise<readonly (Bytes | null)[]> {
    const lengths = Array.from({ length: count }, (_, i) => batch.done[i * DONE]!);
    const places: (Bytes | null)[] = [];
    let from = 0;
    if (this.#space.empty && lengths.every((_, i) => current(i))) {
      const end = this.#end;
      for (const length of lengths) {
        places.push(end + from);
        this.sum.add(end + from, storedHeaderCrc(batch.packed.subarray(from, from + RECORD_HEADER)));
        from += length;
      }
      this.#end += from;
      this.#records += count;
      await this.#file.write(batch.packed.subarray(0, from), end);
      return places;
    }
    for (const [i, length] of lengths.entries()) {
      places.push(current(i) ? await this.append(batch.packed.subarray(from, from + length)) : null);
      from += length;
    }
    return places;
  }

  /** The entry of a record of a batch that was appended at `hint`. */
  entryOf(batch: Batch, i: number, hint: Bytes): Entry {
    const { blockSize, line, session } = this.spec;
    const short = batch.jobs[i * JOB + 2]! < blockSize;
    const [stored, codec] = [batch.done[i * DONE + 1]!, batch.done[i * DONE + 2]!];
    return { kind: DATA, codec, short, session, line, stored, hint, tag: batch.tags.slice(i * TAG, (i + 1) * TAG) };
  }

  async writeNode(disk: number, level: number, position: number, bytes: Uint8Array): Promise<Entry> {
    const packed = this.spec.level === 0 ? null : compressNow(bytes, NODE_LEVEL);
    const codec = packed === null ? 0 : 1;
    const body = packed ?? bytes;
    const place = this.#place('node', disk, position, level);
    const tag = nodeHash(bytes);
    const { session, line } = this.spec;
    const hint = await this.append(buildRecord(place, session, codec, 0, bytes.length, [body]));
    return { kind: NODE, codec, short: false, session, line, stored: body.length, hint, tag };
  }

  /** A record of the layer itself: its session, its layer table. */
  writePlain(kind: 'session' | 'metadata', index: number, body: Uint8Array): Promise<Bytes> {
    const record = buildRecord(this.#place(kind, 0, index, 0), this.spec.session, 0, 0, body.length, [body]);
    return this.append(record);
  }
}

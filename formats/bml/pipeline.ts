/** Turning blocks into records, several at a time, and appending them to the file of an open layer. */
import type { KeyObject } from 'node:crypto';
import type { ByteFile, Bytes } from '../../src/base/contracts.ts';
import { roundUp } from '../../src/base/range.ts';
import { compress, compressNow } from './codec.ts';
import { associatedData, COUNTER, digestOf, GCM_TAG, type Place, seal } from './crypto.ts';
import { DATA, type Entry, NODE, nodeHash, TAG } from './node.ts';
import { buildRecord, dataFlags, recordLength } from './record.ts';
import { Space } from './space.ts';
import { ALIGN, FIRST_RECORD, RECORD_HEADER } from './structs.ts';

/** Index of metadata records that only fill a place. */
const FILLER = 2;
/** Blocks that are compressed and encrypted at the same time. */
const IN_FLIGHT = 8;

export interface SessionSpec {
  readonly setId: Uint8Array;
  readonly layer: Uint8Array;
  readonly line: number;
  readonly key: KeyObject | null;
  readonly blockSize: Bytes;
  readonly level: number;
}

/** Appends records. Every encryption takes the next counter, so that none is used twice under the session's key. */
export class Session {
  readonly spec: SessionSpec;
  readonly #file: ByteFile;
  #end: Bytes = FIRST_RECORD;
  readonly #space = new Space();
  #counter = 0;
  #records = 0;

  constructor(file: ByteFile, spec: SessionSpec) {
    this.#file = file;
    this.spec = spec;
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
      await this.#file.write(record, at);
      return at;
    }
    await this.#file.write(record, slot.at);
    // Records follow each other without gaps: what is left of the place is one too.
    const left = slot.capacity - record.length;
    if (left > 0) await this.#file.write(this.#filler(left), slot.at + record.length);
    return slot.at;
  }

  #filler(length: Bytes): Uint8Array {
    const body = new Uint8Array(length - RECORD_HEADER);
    return buildRecord(this.#place('metadata', 0, FILLER, 0), 0, 0, 0, body.length, [body]);
  }

  /** The object of an entry of this layer was replaced before the commit. */
  release(entry: Entry): void {
    const length = recordLength(entry.stored, entry.kind === DATA && this.spec.key !== null);
    this.#space.release(entry.hint, roundUp(length, ALIGN));
  }

  #nextCounter(): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(COUNTER);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, this.#counter % 0x1_0000_0000, true);
    view.setUint32(4, Math.floor(this.#counter / 0x1_0000_0000), true);
    this.#counter++;
    return bytes;
  }

  #place(kind: Place['kind'], disk: number, index: number, level: number): Place {
    const { setId, layer } = this.spec;
    return { setId, layer, kind, disk, index, level };
  }

  /** Stores one block; `plain` is left alone until the promise resolves. */
  async writeBlock(disk: number, block: number, plain: Uint8Array<ArrayBuffer>): Promise<Entry> {
    const { key, blockSize, level, line } = this.spec;
    const short = plain.length < blockSize;
    const packed = level === 0 ? null : await compress(plain, level);
    const codec = packed === null ? 0 : 1;
    const place = this.#place('data', disk, block, 0);
    const body = packed ?? plain;
    const flags = dataFlags(key !== null, short);
    let parts: Uint8Array[];
    let tag: Uint8Array;
    if (key === null) {
      tag = (await digestOf(plain)).slice(0, TAG);
      parts = [body];
    } else {
      const counter = this.#nextCounter();
      const sealed = seal(key, counter, associatedData(place, codec, plain.length, flags), body);
      tag = sealed.slice(sealed.length - GCM_TAG, sealed.length - GCM_TAG + TAG);
      parts = [counter, sealed];
    }
    const stored = body.length + (key === null ? 0 : COUNTER);
    const hint = await this.append(buildRecord(place, 0, codec, flags, plain.length, parts));
    return { kind: DATA, codec, short, session: 0, line, stored, hint, tag };
  }

  async writeNode(disk: number, level: number, position: number, bytes: Uint8Array): Promise<Entry> {
    const packed = this.spec.level === 0 ? null : compressNow(bytes);
    const codec = packed === null ? 0 : 1;
    const body = packed ?? bytes;
    const place = this.#place('node', disk, position, level);
    const tag = nodeHash(bytes);
    const hint = await this.append(buildRecord(place, 0, codec, 0, bytes.length, [body]));
    return { kind: NODE, codec, short: false, session: 0, line: this.spec.line, stored: body.length, hint, tag };
  }

  /** A record of the layer itself: its session, its layer table. */
  writePlain(kind: 'session' | 'metadata', index: number, body: Uint8Array): Promise<Bytes> {
    return this.append(buildRecord(this.#place(kind, 0, index, 0), 0, 0, 0, body.length, [body]));
  }
}

/** A few block buffers. Work on one of them runs while the caller goes on; the first failure is kept. */
export class Lanes {
  readonly #free: Uint8Array<ArrayBuffer>[];
  readonly #waiting: ((buffer: Uint8Array<ArrayBuffer>) => void)[] = [];
  readonly #running = new Set<Promise<void>>();
  #failure: { readonly error: unknown } | null = null;

  constructor(blockSize: Bytes) {
    this.#free = Array.from({ length: IN_FLIGHT }, () => new Uint8Array(blockSize));
  }

  /** Throws what any earlier work failed with. */
  check(): void {
    if (this.#failure !== null) throw this.#failure.error;
  }

  take(): Uint8Array<ArrayBuffer> | Promise<Uint8Array<ArrayBuffer>> {
    const buffer = this.#free.pop();
    return buffer ?? new Promise(resolve => this.#waiting.push(resolve));
  }

  run(buffer: Uint8Array<ArrayBuffer>, work: () => Promise<void>): void {
    const running = work()
      .catch((error: unknown) => {
        this.#failure ??= { error };
      })
      .finally(() => {
        this.#running.delete(running);
        const next = this.#waiting.shift();
        if (next === undefined) this.#free.push(buffer);
        else next(buffer);
      });
    this.#running.add(running);
  }

  async drain(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
    this.check();
  }
}

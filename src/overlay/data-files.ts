/**
 * The data of an overlay: every block at its guest offset in a sparse file. ext4 ends at 16 TiB per file, so a larger
 * disk goes on in a second one; below 8 TiB there is one file, as large and as sparse as what the guest wrote.
 */
import type { Bytes, Done } from '../base/contracts.ts';
import { allDone, inParts } from '../base/done.ts';
import { ImageError } from '../base/errors.ts';
import type { OverlayFile, OverlayFiles } from './files.ts';

const SEGMENT: Bytes = 2 ** 43;

interface Segment {
  readonly file: OverlayFile;
  unsynced: boolean;
}

const nameOf = (segment: number): string => (segment === 0 ? 'data' : `data.${segment}`);

export const isDataName = (name: string): boolean => /^data(\.\d+)?$/.test(name);

export class DataFiles {
  readonly #files: OverlayFiles;
  readonly #segment: Bytes;
  readonly #there: Set<string>;
  readonly #open: (Segment | undefined)[] = [];
  /** An earlier run may have been killed before it synced the names it made. */
  #newNames = true;

  /** `segment`: guest bytes per file. */
  constructor(files: OverlayFiles, segment = SEGMENT) {
    this.#files = files;
    this.#segment = segment;
    this.#there = new Set(files.names().filter(isDataName));
    for (const name of this.#there) this.#segmentAt(name === 'data' ? 0 : Number(name.slice(5)), false);
  }

  get allocated(): Bytes {
    return this.#open.reduce((sum, segment) => sum + (segment?.file.allocated() ?? 0), 0);
  }

  /** Only what was written whole may be asked for. */
  read(into: Uint8Array, at: Bytes): Done {
    const within = at % this.#segment;
    if (within + into.length <= this.#segment) return this.#fileAt(at).read(into, within);
    return inParts(into.length, (done, wait) => {
      const from = (at + done) % this.#segment;
      const part = into.subarray(done, Math.min(into.length, done + this.#segment - from));
      wait(this.#fileAt(at + done).read(part, from));
      return done + part.length;
    });
  }

  write(from: Uint8Array, at: Bytes): void {
    for (let done = 0; done < from.length; ) {
      const within = (at + done) % this.#segment;
      const length = Math.min(from.length - done, this.#segment - within);
      const segment = this.#segmentAt(Math.floor((at + done) / this.#segment), true);
      segment.unsynced = true;
      segment.file.write(length === from.length ? from : from.subarray(done, done + length), within);
      done += length;
    }
  }

  /** Gives the space of a range back; only where a file is open, since nothing else was written. */
  punch(at: Bytes, length: Bytes): void {
    for (let done = 0; done < length; ) {
      const within = (at + done) % this.#segment;
      const part = Math.min(length - done, this.#segment - within);
      const segment = this.#open[Math.floor((at + done) / this.#segment)];
      if (segment !== undefined && within < segment.file.size) segment.file.punch(within, part);
      done += part;
    }
  }

  /**
   * Everything written before the call is durable when it resolves, its file names too. One file after another: syncs
   * at the same time hold a pool thread each, and ext4 was seen to answer ENOSPC to one of eight on a disk with room.
   */
  async sync(): Promise<void> {
    const files = this.#open.filter(segment => segment?.unsynced === true) as Segment[];
    const names = this.#newNames;
    // Before anything is awaited: what is written from now on is for the next sync.
    for (const segment of files) segment.unsynced = false;
    this.#newNames = false;
    for (const { file } of files) await file.sync();
    if (names) await this.#files.syncNames();
  }

  async close(): Promise<void> {
    await allDone(this.#open.filter(segment => segment !== undefined).map(segment => segment.file.close()));
  }

  #fileAt(at: Bytes): OverlayFile {
    return this.#segmentAt(Math.floor(at / this.#segment), false).file;
  }

  #segmentAt(index: number, create: boolean): Segment {
    const open = this.#open[index];
    if (open !== undefined) return open;
    const name = nameOf(index);
    const there = this.#there.has(name);
    if (!there && !create) {
      throw new ImageError('corrupt', 'the overlay has blocks in a data file that is missing', {
        file: `${this.#files.folder}/${name}`,
      });
    }
    // Written in an earlier run and perhaps not synced there: the first flush of this run syncs it.
    const segment: Segment = { file: this.#files.open(name, there ? 'write' : 'create'), unsynced: there };
    if (!there) this.#newNames = true;
    this.#there.add(name);
    this.#open[index] = segment;
    return segment;
  }
}

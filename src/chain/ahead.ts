/** Decoding what a sequential reader will ask for next. */
import type { Bytes } from '../base/contracts.ts';

/** Reads in a row that go forward before anything is read ahead. */
const STARTS = 2;
/** A read is part of the run when it begins at most so many of its own lengths away from where the run stands. */
const SLACK = 8;
/** So far ahead at most, and never more than a quarter of what the cache may hold. */
const FARTHEST: Bytes = 8 * 2 ** 20;
/** Bytes that are decoded at the same time, and so many units however long they are. */
const IN_FLIGHT: Bytes = 2 * 2 ** 20;
const UNITS_IN_FLIGHT = 2;
/** Bytes that are begun before requests and timers get their turn. */
const PER_TURN: Bytes = 256 * 1024;
/** Loads of metadata for one read. */
const LOADS = 4;

/** What lies at an offset. `unit`: bytes to be decoded for it; 0: nothing to do (not packed, or in memory). */
export interface Next {
  readonly length: Bytes;
  readonly unit: Bytes;
}

export interface AheadSource {
  readonly size: Bytes;
  /** Of the cache. */
  readonly budget: Bytes;
  /** null: the metadata is not resident. */
  look(at: Bytes): Next | null;
  /** Brings what `look` saw at `at` into memory, or the metadata when it saw none. */
  begin(at: Bytes): Promise<void>;
  /** false: nothing may be begun now. */
  may(): boolean;
  /** It has something to do from now on (true), or nothing any more (false). */
  busy(now: boolean): void;
}

/**
 * One run of reads is followed. A read elsewhere ends it at once, so a random load decodes nothing that it did not ask
 * for. What fails ahead is forgotten: whoever asks for it finds the error by itself.
 */
export class ReadAhead {
  readonly #source: AheadSource;
  readonly #farthest: Bytes;
  /** End of the run. */
  #end: Bytes = 0;
  #run = 0;
  /** The next place to look at, and where to stop. */
  #at: Bytes = 0;
  #until: Bytes = 0;
  #flying: Bytes = 0;
  #units = 0;
  /** Loads of metadata since the last read: what was loaded may be forgotten again before it is looked at. */
  #loads = 0;
  #due = false;
  #busy = false;

  constructor(source: AheadSource) {
    this.#source = source;
    this.#farthest = Math.min(FARTHEST, Math.floor(source.budget / 4));
  }

  /** To be told of each read that found packed data. */
  saw(at: Bytes, length: Bytes): void {
    if (!this.#source.may()) return;
    const end = at + length;
    const near = Math.abs(at - this.#end) <= SLACK * length;
    if (!near) {
      this.#run = 0;
      this.#end = end;
      this.#until = 0;
      return;
    }
    if (end <= this.#end) return;
    this.#end = end;
    this.#run++;
    if (this.#run < STARTS) return;
    const reach = Math.min(this.#farthest, length * 2 ** Math.min(this.#run, 12));
    if (this.#at < end || this.#at > end + reach) this.#at = end;
    this.#until = Math.min(this.#source.size, end + reach);
    this.#loads = 0;
    if (this.#seek() !== undefined) this.#soon();
  }

  /** Goes on to the next place where there is something to do, and says what lies there; undefined: nothing is. */
  #seek(): Next | null | undefined {
    try {
      while (this.#at < this.#until) {
        const next = this.#source.look(this.#at);
        if (next === null) return null;
        if (next.unit > 0) return next.unit <= this.#farthest ? next : undefined;
        this.#at += next.length;
      }
    } catch {
      // Damaged metadata ahead: an error for whoever reads there, not for the read that is being answered.
      this.#stop();
    }
    return undefined;
  }

  /** After the replies that are ready now. */
  #soon(): void {
    if (this.#due) return;
    this.#due = true;
    this.#tell();
    setImmediate(() => {
      this.#due = false;
      this.#go();
      this.#tell();
    });
  }

  #go(): void {
    if (!this.#source.may()) this.#stop();
    for (let begun = 0; this.#flying < IN_FLIGHT || this.#units < UNITS_IN_FLIGHT; ) {
      const next = this.#seek();
      if (next === undefined) return;
      if (begun >= PER_TURN) {
        this.#soon();
        return;
      }
      if (next === null && this.#loads++ >= LOADS) {
        this.#stop();
        return;
      }
      const bytes = next?.unit ?? PER_TURN;
      begun += bytes;
      this.#flying += bytes;
      this.#units++;
      this.#source
        .begin(this.#at)
        .catch(() => this.#stop())
        .finally(() => {
          this.#flying -= bytes;
          this.#units--;
          this.#soon();
        });
      // Without metadata nothing more can be seen; with them the same place is looked at again.
      if (next === null) return;
      this.#at += next.length;
    }
  }

  #stop(): void {
    this.#until = 0;
  }

  #tell(): void {
    const busy = this.#due || this.#flying > 0;
    if (busy === this.#busy) return;
    this.#busy = busy;
    this.#source.busy(busy);
  }
}

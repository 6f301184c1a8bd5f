/**
 * What a guest may find on an overlay, sector by sector, and a run of operations that is held against it. For tests.
 *
 * Each sector has the versions since the last flush, the oldest being what that flush made durable. After a kill the
 * last acknowledged one must be there (or one still under way), after a power loss any of them.
 */
import type { Bytes, Disk } from '../base/contracts.ts';
import { HEADER_FILE } from './header.ts';
import { type Overlay, openOverlayOn } from './overlay.ts';
import type { SimulatedFiles } from './simulated-files.ts';
import { PAGE_SPAN } from './states.ts';

export const SECTOR = 512;
export const BASE_SIZE = 2 * PAGE_SPAN + 20 * 4096 + 3 * SECTOR;
export const DISK_SIZE = 2 * PAGE_SPAN + 24 * 4096 + 5 * SECTOR;
/** Sectors that operations touch: the start, both sides of a map page's end, and the ends of base and disk. */
const WINDOW = 192;
const STARTS = [0, PAGE_SPAN / SECTOR - WINDOW / 2, Math.floor(DISK_SIZE / SECTOR) - WINDOW];
export const SECTORS = WINDOW * STARTS.length;

const BASE = 0;
const ZEROED = -1;

/** Disk sector of the n-th sector that is looked at. */
const sectorOf = (n: number): number => STARTS[Math.floor(n / WINDOW)]! + (n % WINDOW);

export function contentOf(sector: number, version: number, into: Uint8Array): void {
  if (version === ZEROED || (version === BASE && (sector + 1) * SECTOR > BASE_SIZE)) {
    into.fill(0);
    return;
  }
  new Uint32Array(into.buffer, into.byteOffset, SECTOR / 4).fill((sector % 65521) * 65536 + (version % 65536));
}

/** A base that answers now or later, as `later` says. */
export function patternDisk(later: () => boolean): Disk {
  const read = (into: Uint8Array, at: Bytes): void => {
    for (let done = 0; done < into.length; ) {
      const sector = Math.floor((at + done) / SECTOR);
      const within = (at + done) % SECTOR;
      const whole = new Uint8Array(SECTOR);
      contentOf(sector, BASE, whole);
      const part = whole.subarray(within, Math.min(SECTOR, within + into.length - done));
      into.set(part, done);
      done += part.length;
    }
  };
  return {
    id: 'pattern',
    size: BASE_SIZE,
    sectorSize: 512,
    extent: (_at, limit) => ({ kind: 'data', length: limit }),
    load: async () => {},
    read(into, at) {
      if (!later()) return read(into, at);
      return new Promise(resolve => setImmediate(resolve)).then(() => read(into, at));
    },
    async [Symbol.asyncDispose]() {},
  };
}

export type Operation =
  | { readonly do: 'write' | 'zero' | 'read'; readonly from: number; readonly count: number }
  /** Single sectors next to each other, all under way at once. */
  | { readonly do: 'burst'; readonly from: number; readonly count: number }
  | { readonly do: 'flush' | 'flush-under-writes'; readonly from: number; readonly count: number }
  /** By 64 MiB, as long as the disk is small. */
  | { readonly do: 'grow' }
  | { readonly do: 'kill' | 'power' | 'close' };

interface Versions {
  list: number[];
  /** Index of the last one that was acknowledged. */
  acked: number;
}

export class OverlayModel {
  readonly #sectors: Versions[];
  #next = 1;

  constructor(sectors?: Versions[], next = 1) {
    this.#sectors = sectors ?? Array.from({ length: SECTORS }, () => ({ list: [BASE], acked: 0 }));
    this.#next = next;
  }

  copy(): OverlayModel {
    return new OverlayModel(
      this.#sectors.map(({ list, acked }) => ({ list: [...list], acked })),
      this.#next,
    );
  }

  /** A new version, not acknowledged yet. */
  begin(from: number, count: number, zero: boolean): Uint8Array {
    const version = zero ? ZEROED : this.#next++;
    const content = new Uint8Array(count * SECTOR);
    for (let i = 0; i < count; i++) {
      this.#sectors[from + i]!.list.push(version);
      contentOf(sectorOf(from + i), version, content.subarray(i * SECTOR, (i + 1) * SECTOR));
    }
    return content;
  }

  acknowledge(from: number, count: number): void {
    for (let i = from; i < from + count; i++) this.#sectors[i]!.acked = this.#sectors[i]!.list.length - 1;
  }

  /** To be called when a flush begins; the answer is to be called when it has succeeded. */
  flushing(): () => void {
    const marks = this.#sectors.map(sector => sector.acked);
    return () => {
      for (const [i, sector] of this.#sectors.entries()) {
        sector.list.splice(0, marks[i]!);
        sector.acked -= marks[i]!;
      }
    };
  }

  /** Throws when one of these sectors holds what it may not. With `settle`, what it holds is durable from now on. */
  check(from: number, content: Uint8Array, after: 'acknowledgement' | 'power loss', settle = false): void {
    const wanted = new Uint8Array(SECTOR);
    for (let i = 0; i < content.length / SECTOR; i++) {
      const sector = this.#sectors[from + i]!;
      const found = content.subarray(i * SECTOR, (i + 1) * SECTOR);
      const oldest = after === 'power loss' ? 0 : sector.acked;
      let at = sector.list.length - 1;
      for (; at >= oldest; at--) {
        contentOf(sectorOf(from + i), sector.list[at]!, wanted);
        if (Buffer.compare(found, wanted) === 0) break;
      }
      if (at < oldest) {
        const first = new DataView(found.buffer, found.byteOffset).getUint32(0, true);
        throw new Error(
          `sector ${from + i} holds ${first % 65536}, not one of ${sector.list.slice(oldest)} (${after})`,
        );
      }
      if (settle) {
        sector.list = [sector.list[at]!];
        sector.acked = 0;
      }
    }
  }

  /** Reads all sectors that operations touch. */
  async checkAll(overlay: Pick<Disk, 'read'>, after: 'acknowledgement' | 'power loss', settle = false): Promise<void> {
    for (const [i, start] of STARTS.entries()) {
      const content = new Uint8Array(WINDOW * SECTOR);
      await overlay.read(content, start * SECTOR);
      this.check(i * WINDOW, content, after, settle);
    }
  }
}

/** An instant of a machine. What a check finds must be what the model allows, or it throws. */
export interface Moment {
  afterKill(): Promise<void>;
  /** `pick` chooses a version out of `n`, again and again. */
  afterPowerLoss(pick: (n: number) => number): Promise<void>;
  /** Both, the second with any versions. */
  check(): Promise<void>;
}

/** One machine with one overlay, through operations and restarts. */
export class Machine {
  files: SimulatedFiles;
  readonly model = new OverlayModel();
  readonly #base: Disk;
  readonly #random: () => number;
  #overlay: Overlay | null = null;
  #boot = 1;
  /** After a power loss, until it has been seen which versions are there. */
  #settling = false;
  /** Errors of operations are expected; what they leave is checked all the same. */
  tolerant = false;
  readonly errors: unknown[] = [];

  constructor(files: SimulatedFiles, random: () => number) {
    this.files = files;
    this.#random = random;
    this.#base = patternDisk(() => random() < 0.5);
  }

  async overlay(): Promise<Overlay> {
    if (this.#overlay === null) {
      // A small cache, so that pages are forgotten and read again.
      const create = !this.files.names().includes(HEADER_FILE);
      const options = { create, size: DISK_SIZE, mapCache: 2 * 4096, id: 'test' };
      this.#overlay = await open(this.files, this.#boot, this.#base, options);
    }
    return this.#overlay;
  }

  async run(operation: Operation): Promise<void> {
    try {
      await this.#run(operation, await this.overlay());
    } catch (error) {
      if (!this.tolerant) throw error;
      this.errors.push(error);
    }
  }

  async restart(how: 'kill' | 'power' | 'close'): Promise<void> {
    const overlay = this.#overlay;
    this.#overlay = null;
    const { plan } = this.files;
    if (how === 'close') await overlay?.close();
    if (how === 'kill') this.files = this.files.afterKill(plan);
    if (how === 'power') this.files = this.files.afterPowerLoss(n => Math.floor(this.#random() * n), plan);
    if (how === 'power') {
      this.#boot++;
      this.#settling = true;
    }
    await this.model.checkAll(
      await this.overlay(),
      how === 'power' ? 'power loss' : 'acknowledgement',
      how === 'power',
    );
  }

  /** What the next run would find if this moment were the last: after a kill, and after a power loss. */
  moment(): Moment {
    const model = this.model.copy();
    const killed = this.files.afterKill();
    const boot = this.#boot;
    const afterKill = this.#settling ? 'power loss' : 'acknowledgement';
    const base = patternDisk(() => false);
    // One whose creation was cut is made anew.
    const opened = (files: SimulatedFiles, inBoot: number): Promise<Overlay> =>
      open(files, inBoot, base, { create: !files.names().includes(HEADER_FILE), size: DISK_SIZE, id: 'test' });
    const moment: Moment = {
      afterKill: async () => model.copy().checkAll(await opened(killed.afterKill(), boot), afterKill),
      afterPowerLoss: async pick =>
        model.copy().checkAll(await opened(killed.afterPowerLoss(pick), boot + 1), 'power loss'),
      check: async () => {
        await moment.afterKill();
        await moment.afterPowerLoss(n => Math.floor(this.#random() * n));
      },
    };
    return moment;
  }

  async #run(operation: Operation, overlay: Overlay): Promise<void> {
    switch (operation.do) {
      case 'write':
      case 'zero':
        return this.#change(overlay, operation.from, operation.count, operation.do === 'zero');
      case 'read': {
        const content = new Uint8Array(operation.count * SECTOR);
        await overlay.read(content, sectorOf(operation.from) * SECTOR);
        return this.model.check(operation.from, content, 'acknowledgement');
      }
      case 'burst': {
        const all = Array.from({ length: operation.count }, (_, i) =>
          this.#change(overlay, operation.from + i, 1, i % 5 === 4),
        );
        const ends = await Promise.allSettled(all);
        for (const end of ends) if (end.status === 'rejected') throw end.reason;
        return;
      }
      case 'flush': {
        const done = this.model.flushing();
        await overlay.flush();
        return done();
      }
      case 'flush-under-writes': {
        const done = this.model.flushing();
        const flush = overlay.flush();
        const ends = await Promise.allSettled([flush, this.#change(overlay, operation.from, operation.count, false)]);
        if (ends[0].status === 'fulfilled') done();
        for (const end of ends) if (end.status === 'rejected') throw end.reason;
        return;
      }
      case 'grow':
        return overlay.size < 8 * PAGE_SPAN ? overlay.grow(overlay.size + PAGE_SPAN) : undefined;
      case 'kill':
      case 'power':
      case 'close':
        return this.restart(operation.do);
    }
  }

  async #change(overlay: Overlay, from: number, count: number, zero: boolean): Promise<void> {
    const content = this.model.begin(from, count, zero);
    const at = sectorOf(from) * SECTOR;
    if (zero) await overlay.zero(at, content.length);
    else await overlay.write(content, at);
    this.model.acknowledge(from, count);
  }
}

function open(
  files: SimulatedFiles,
  boot: number,
  base: Disk,
  options: { create: boolean; size: Bytes; mapCache?: Bytes; id: string },
): Promise<Overlay> {
  // Data files of 64 MiB and a bit: requests cross from one to the next inside the middle window.
  const segment = PAGE_SPAN + 4 * 4096;
  return openOverlayOn({ files, boot: `boot-${boot}`, lock: { release() {} }, segment }, base, options);
}

/** Keeps an operation inside one window. */
export function clipped(from: number, count: number): { from: number; count: number } {
  const start = from % SECTORS;
  return { from: start, count: Math.min(count, WINDOW - (start % WINDOW)) };
}

/** Mulberry32, so that a failing case repeats. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x = (x + Math.imul(x ^ (x >>> 7), x | 61)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

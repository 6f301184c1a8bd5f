/** Flush: the order in which an overlay becomes durable, and what happens when that fails. */
import { ImageError } from '../base/errors.ts';
import type { DataFiles } from './data-files.ts';
import type { MapFile } from './map-file.ts';
import type { Presence } from './presence.ts';
import type { Room } from './room.ts';
import { BLOCK, BLOCKS_PER_PAGE, ZERO } from './states.ts';

/** Map pages that are held as copies at once (4 MiB): a flush of any size needs no more memory. */
const PAGES_AT_ONCE = 1024;

interface Caller {
  resolve(): void;
  reject(error: unknown): void;
}

export interface Flushed {
  readonly folder: string;
  readonly data: DataFiles;
  readonly durable: MapFile;
  readonly presence: Presence;
  readonly room: Room;
  /** Called once, when a sync failed. */
  failed(error: ImageError): void;
}

export class Flusher {
  readonly #parts: Flushed;
  #callers: Caller[] = [];
  #running = false;
  #failure: ImageError | null = null;

  constructor(parts: Flushed) {
    this.#parts = parts;
  }

  /** Set when a sync failed. Nothing that is not durable can be trusted to become so: the kernel counts the lost pages as written. */
  get failure(): ImageError | null {
    return this.#failure;
  }

  /**
   * Resolves when everything acknowledged before the call is durable. Flushes run one after another. All callers that
   * come while one runs share the next one, which starts after their call.
   */
  flush(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#callers.push({ resolve, reject });
      if (!this.#running) void this.#run();
    });
  }

  async #run(): Promise<void> {
    this.#running = true;
    while (this.#callers.length > 0) {
      const callers = this.#callers;
      this.#callers = [];
      try {
        await this.#flushOnce();
        for (const caller of callers) caller.resolve();
      } catch (error) {
        for (const caller of callers) caller.reject(error);
      }
    }
    this.#running = false;
  }

  /** Presence strictly after its data: the copy of the map is taken first, then data is synced, then the copy is written. */
  async #flushOnce(): Promise<void> {
    if (this.#failure !== null) throw this.#failure;
    const { data, durable, presence, room } = this.#parts;
    presence.repair();
    const synced = room.syncing();
    const dirty = presence.takeDirty();
    let done = 0;
    try {
      do {
        const pages = dirty.slice(done, done + PAGES_AT_ONCE);
        const copy = presence.snapshot(pages);
        await this.#synced(data.sync());
        presence.commit(pages, copy);
        done += pages.length;
      } while (done < dirty.length);
      await this.#synced(durable.sync());
      synced();
      this.#release(dirty);
    } catch (error) {
      presence.giveBack(dirty);
      throw error;
    }
  }

  /**
   * Gives back the space of blocks that were discarded or zeroed. A block that is zero now reads as zeros whether its
   * data is still there or not, and also after a power loss that forgets the zeroing: then it shows the later of two
   * values that the guest was never promised to keep apart. Nothing is awaited between the question and the deed.
   */
  #release(pages: readonly number[]): void {
    const { data, presence } = this.#parts;
    for (const page of pages) {
      const end = (page + 1) * BLOCKS_PER_PAGE;
      for (let block = page * BLOCKS_PER_PAGE; block < end; ) {
        const run = presence.run(block, end - block);
        if (presence.state(block) === ZERO) data.punch(block * BLOCK, run * BLOCK);
        block += run;
      }
    }
  }

  async #synced(sync: Promise<void>): Promise<void> {
    try {
      await sync;
    } catch (cause) {
      const full = cause instanceof ImageError && cause.fault === 'no-space';
      this.#failure = new ImageError(
        'io',
        full
          ? 'a sync of the overlay failed, its file system is full and said so too late to refuse the write: what was written since the last flush may be lost'
          : 'a sync of the overlay failed: what was written since the last flush may be lost',
        { file: this.#parts.folder },
        {
          cause,
          hint: `${full ? 'make room on' : 'repair'} the disk below, then start the machine anew: the overlay is then as of its last flush`,
        },
      );
      this.#parts.failed(this.#failure);
      throw this.#failure;
    }
  }
}

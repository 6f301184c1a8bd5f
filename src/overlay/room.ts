/**
 * Leaves the file system below some room. A write that does not fit is refused while it can be refused: a sync that
 * runs out of space comes too late, since what it loses was acknowledged. File systems that find out only then (btrfs
 * does) are kept from getting that full; on the others the last bytes stay for maps and for the flush.
 */
import type { Bytes } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import type { OverlayFiles } from './files.ts';

/** What is left alone, at most; a sixteenth of a small file system. */
const HEAD_ROOM: Bytes = 64 * 2 ** 20;
/** So much is handed out before the file system is asked again: it has other users. */
const AT_ONCE: Bytes = 64 * 2 ** 20;

export class Room {
  readonly #files: OverlayFiles;
  /** May be taken without asking. */
  #left: Bytes = 0;
  /** Taken since the last sync: a file system may not have counted it yet. */
  #unsynced: Bytes = 0;

  constructor(files: OverlayFiles) {
    this.#files = files;
  }

  /**
   * Takes room for new data, or throws 'no-space'. false: nothing is taken, it depends on what is not synced yet. With
   * `settled`, when a sync has just been, what the file system says counts as it is.
   */
  take(length: Bytes, settled = false): boolean {
    if (this.#left < length) {
      const { free, total } = this.#files.space();
      const spare = free - Math.min(HEAD_ROOM, total / 16);
      if (spare < length) throw new ImageError('no-space', 'no space left', { file: this.#files.folder });
      if (!settled && spare - this.#unsynced < length) return false;
      this.#left = Math.max(length, Math.min(AT_ONCE, Math.floor((spare - this.#unsynced) / 4)));
    }
    this.#left -= length;
    this.#unsynced += length;
    return true;
  }

  /** To be called when a sync begins; the answer is to be called when it has succeeded. */
  syncing(): () => void {
    const covered = this.#unsynced;
    return () => {
      this.#unsynced -= covered;
    };
  }
}

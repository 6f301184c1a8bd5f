/** Writing while the next data are read. */
import type { ByteFile, Bytes } from '../base/contracts.ts';

const BUFFER: Bytes = 2 ** 21;
/** So much is written before the medium is told to take it: it works while the rest is made. */
const SYNC_EVERY: Bytes = 128 * 2 ** 20;

export interface WriteBehind extends ByteFile {
  /** As `sync` of the file itself. */
  settle(): Promise<void>;
}

/**
 * The file, written to through two buffers: what is given to `write` is copied, neighbours go out together, one write at a
 * time and in their order, and one that fails is reported by a later call. `sync` only waits until everything is written:
 * for writers that order what they write, into a file that has no name before `settle`.
 */
export function writeBehind(file: ByteFile): WriteBehind {
  const buffers = [new Uint8Array(BUFFER), new Uint8Array(BUFFER)];
  let filling = buffers[0]!;
  let start = 0;
  let filled = 0;
  let flying: Promise<void> = Promise.resolve();
  let syncing: Promise<void> | null = null;
  let unsynced = 0;
  let failure: { readonly reason: unknown } | null = null;
  const fail = (reason: unknown): void => {
    failure ??= { reason };
  };
  const throwIfFailed = (): void => {
    if (failure !== null) throw failure.reason;
  };

  const send = async (data: Uint8Array, at: Bytes): Promise<void> => {
    try {
      await file.write(data, at);
    } catch (error) {
      fail(error);
    }
  };
  const flush = async (): Promise<void> => {
    await flying;
    throwIfFailed();
    if (filled === 0) return;
    flying = send(filling.subarray(0, filled), start);
    unsynced += filled;
    filled = 0;
    filling = filling === buffers[0] ? buffers[1]! : buffers[0]!;
    if (unsynced < SYNC_EVERY || syncing !== null) return;
    unsynced = 0;
    syncing = file.sync().then(
      () => {
        syncing = null;
      },
      // The kernel tells of a failed write once: it is never forgotten here.
      fail,
    );
  };
  const drain = async (): Promise<void> => {
    await flush();
    await flying;
    throwIfFailed();
  };

  return {
    name: file.name,
    get size() {
      return Math.max(file.size, filled === 0 ? 0 : start + filled);
    },
    async read(into, at) {
      await drain();
      await file.read(into, at);
    },
    async write(from, at) {
      throwIfFailed();
      for (let done = 0; done < from.length; ) {
        if (filled === BUFFER || (filled > 0 && at + done !== start + filled)) await flush();
        if (filled === 0) start = at + done;
        const part = from.subarray(done, done + BUFFER - filled);
        filling.set(part, filled);
        filled += part.length;
        done += part.length;
      }
    },
    async truncate(size) {
      await drain();
      await file.truncate(size);
    },
    sync: drain,
    async settle() {
      await drain();
      await syncing;
      throwIfFailed();
      await file.sync();
    },
    async [Symbol.asyncDispose]() {
      await Promise.allSettled([flying, syncing]);
    },
  };
}

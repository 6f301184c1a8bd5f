/** Writing while the next data are read. */
import type { ByteFile, Bytes } from '../base/contracts.ts';
import { roundDown, roundUp } from '../base/range.ts';
import { DIRECT_UNIT, deviceBytes } from '../base/shared-bytes.ts';

const BUFFER: Bytes = 2 ** 21;
/** While one is filled the others are on their way: the medium never waits. */
const BUFFERS = 3;
/** So much is written before the medium is told to take it: it works while the rest is made. */
const SYNC_EVERY: Bytes = 128 * 2 ** 20;

export interface WriteBehind extends ByteFile {
  /** As `sync` of the file itself. */
  settle(): Promise<void>;
}

interface Flight {
  readonly at: Bytes;
  readonly end: Bytes;
  readonly landed: Promise<void>;
}

/**
 * The file, written to through buffers: what is given to `write` is copied, neighbours go out together, and one that fails is
 * reported by a later call. What overlaps is written in its order. `sync` only waits until everything is written: for writers
 * that order what they write, into a file that has no name before `settle`.
 */
export function writeBehind(file: ByteFile): WriteBehind {
  const free = Array.from({ length: BUFFERS }, () => deviceBytes(BUFFER));
  /** A byte's place in a buffer is its place in the file modulo BUFFER: what suits a device there suits it here. */
  let filling = free.pop()!;
  let start = 0;
  let end = 0;
  /** Nothing was ever written from here on. */
  let top = file.size;
  const flights: Flight[] = [];
  let syncing: Promise<void> | null = null;
  let unsynced = 0;
  let failure: { readonly reason: unknown } | null = null;
  const fail = (reason: unknown): void => {
    failure ??= { reason };
  };
  const throwIfFailed = (): void => {
    if (failure !== null) throw failure.reason;
  };

  const send = (buffer: Uint8Array, at: Bytes, to: Bytes): void => {
    const within = at % BUFFER;
    const write = async (): Promise<void> => file.write(buffer.subarray(within, within + to - at), at);
    const landed = write()
      .catch(fail)
      .then(() => {
        free.push(buffer);
        flights.splice(flights.indexOf(flight), 1);
      });
    const flight: Flight = { at, end: to, landed };
    flights.push(flight);
  };
  const flush = async (): Promise<void> => {
    throwIfFailed();
    if (start === end) return;
    const overlapping = (): Flight | undefined => flights.find(flight => flight.at < end && start < flight.end);
    for (let other = overlapping(); other !== undefined; other = overlapping()) await other.landed;
    send(filling, start, end);
    unsynced += end - start;
    start = end;
    while (free.length === 0) await flights[0]!.landed;
    filling = free.pop()!;
    throwIfFailed();
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
  const zerosTo = (to: Bytes): void => {
    if (to === end) return;
    filling.fill(0, end % BUFFER, (end % BUFFER) + to - end);
    end = to;
  };
  /** Over what was never written to `at`: with zeros on both sides of the gap, which read the same, as far as a device wants it. */
  const leap = async (at: Bytes): Promise<void> => {
    if (end > start) zerosTo(Math.min(at, roundUp(end, DIRECT_UNIT)));
    const from = Math.max(end, roundDown(at, DIRECT_UNIT));
    if (end === start || from > end || end % BUFFER === 0) {
      await flush();
      start = end = from;
    }
    zerosTo(at);
  };
  const land = async (): Promise<void> => {
    await Promise.all(flights.map(({ landed }) => landed));
  };
  const drain = async (): Promise<void> => {
    await flush();
    await land();
    throwIfFailed();
  };

  return {
    name: file.name,
    get size() {
      return Math.max(file.size, top);
    },
    async read(into, at) {
      await drain();
      await file.read(into, at);
    },
    async write(from, at) {
      throwIfFailed();
      if (at > end && end === top) await leap(at);
      top = Math.max(top, at + from.length);
      for (let done = 0; done < from.length; ) {
        if (at + done !== end || (end > start && end % BUFFER === 0)) await flush();
        if (start === end) start = end = at + done;
        const within = end % BUFFER;
        const part = from.subarray(done, done + BUFFER - within);
        filling.set(part, within);
        end += part.length;
        done += part.length;
      }
    },
    async truncate(size) {
      await drain();
      await file.truncate(size);
      top = size;
    },
    sync: drain,
    async settle() {
      await drain();
      await syncing;
      throwIfFailed();
      await file.sync();
    },
    async [Symbol.asyncDispose]() {
      await Promise.allSettled([land(), syncing]);
    },
  };
}

/**
 * A writable disk over any disk that is never written. Its files, in one folder:
 *
 * - `overlay`: what it is and what it lies over. Written last when it is made: without it there is no overlay.
 * - `data`: the guest's bytes at their guest offsets (sparse).
 * - `recent`, `durable`: which blocks of `data` count (`presence.ts` has the two orders).
 * - `lock`: who has it open.
 *
 * Its limit: data in it carries no checksum that changes together with it, so rot inside an overlay that is open for
 * writing is found by the file system below or not at all.
 */
import { randomUUID } from 'node:crypto';
import type { Bytes, Disk, WritableDisk } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { bootId } from '../base/files.ts';
import { CowDisk, type OwnExtent } from './cow-disk.ts';
import { DataFiles, isDataName } from './data-files.ts';
import { localOverlayFiles, type OverlayFiles } from './files.ts';
import { Flusher } from './flusher.ts';
import { buildHeader, HEADER_FILE, MAX_HEADER, type MapHeader, type OverlayHeader, parseHeader } from './header.ts';
import { type FolderLock, lockFolder } from './lock.ts';
import { MapFile, pagesFor } from './map-file.ts';
import { Presence } from './presence.ts';
import { Room } from './room.ts';
import { BLOCK } from './states.ts';

const DEFAULT_CACHE: Bytes = 32 * 2 ** 20;
const DURABLE = 'durable';
const RECENT = 'recent';

export interface OverlayOptions {
  /** Make a new one ('exists' when there is one) or open one that is there ('not-found'). */
  readonly create: boolean;
  /** Changes whenever the base's content does; `base.id` when missing. Another one than at creation: 'broken-chain'. */
  readonly baseIdentity?: string;
  /** At creation: larger than the base, if the rest is to read as zeros. The base's size when missing. */
  readonly size?: Bytes;
  /** At creation: the disk's own id, at most 64 bytes. A random one when missing. */
  readonly id?: string;
  /** Memory for map pages, in bytes. 32 MiB, which speak for 512 GiB of disk, when missing. */
  readonly mapCache?: Bytes;
}

export interface OverlayStats {
  /** Bytes of the disk that the overlay holds as data. */
  readonly dataBytes: Bytes;
  /** Bytes that its files take up on disk. */
  readonly bytesOnDisk: Bytes;
}

export interface Overlay extends WritableDisk {
  /** Why it takes no writes; null: it does. */
  readonly readOnly: string | null;
  /** As `extent`, but of the overlay alone. */
  ownExtent(at: Bytes, limit: Bytes): OwnExtent | null;
  /** Makes the disk larger, durably; what is new shows the base, and zeros behind its end. */
  grow(size: Bytes): Promise<void>;
  /** The first call looks at the map, later ones are cheap. */
  stats(): Promise<OverlayStats>;
  /** Flushes and lets go of the folder. Throws when the flush fails, having let go all the same. Not the base's end. */
  close(): Promise<void>;
}

/** What an overlay stands on; tests put their own in its place. */
export interface Ground {
  readonly files: OverlayFiles;
  /** Of the machine: two runs with the same one share the kernel's memory of unsynced writes. */
  readonly boot: string;
  readonly lock: FolderLock;
  /** Guest bytes per data file. */
  readonly segment?: Bytes;
}

/** Opens or makes the overlay in `folder` over `base`, which the caller closes afterwards. In use already: 'busy'. */
export async function openOverlay(folder: string, base: Disk, options: OverlayOptions): Promise<Overlay> {
  const files = localOverlayFiles(folder);
  const lock = lockFolder(folder);
  return openOverlayOn({ files, boot: bootId(), lock }, base, options);
}

/** As `openOverlay`, on files of the caller's; gives the lock back when it fails. */
export async function openOverlayOn(ground: Ground, base: Disk, options: OverlayOptions): Promise<Overlay> {
  const opened: { close(): Promise<void> }[] = [];
  try {
    if (options.create) await createFiles(ground, base, options);
    const header = readHeader(ground.files, base, options);
    const pages = pagesFor(header.size);
    const durable = await openDurable(ground.files, header.id, pages);
    opened.push(durable);
    const { recent, failed } = openRecent(ground, header.id, pages);
    opened.push(recent);
    const data = new DataFiles(ground.files, ground.segment);
    opened.push(data);
    return assemble({ ground, base, header, durable, recent, data, failed }, options);
  } catch (error) {
    await Promise.allSettled(opened.map(file => file.close()));
    ground.lock.release();
    throw error;
  }
}

interface Opened {
  readonly ground: Ground;
  readonly base: Disk;
  readonly header: OverlayHeader;
  readonly durable: MapFile;
  readonly recent: MapFile;
  readonly data: DataFiles;
  /** A sync failed earlier in this boot. */
  readonly failed: boolean;
}

function assemble(opened: Opened, options: OverlayOptions): Overlay {
  const { ground, base, durable, recent, data } = opened;
  const { files, boot } = ground;
  const { folder } = files;
  let { header } = opened;
  const presence = new Presence(recent, durable, pagesFor(header.size), options.mapCache ?? DEFAULT_CACHE);
  const room = new Room(files);
  const flusher = new Flusher({
    folder,
    data,
    durable,
    presence,
    room,
    failed: () => markFailed(recent, header.id, boot),
  });
  const readOnly = opened.failed
    ? 'a sync of this overlay failed since the machine started: what was written after the last flush may be lost'
    : null;
  const disk = new CowDisk({ folder, base, data, presence, flusher, room, readOnly }, header.size);
  const close = closeOnce(opened, disk, readOnly === null ? flusher : null);

  return {
    id: header.id,
    sectorSize: header.sectorSize,
    readOnly,
    get size() {
      return disk.size;
    },
    read: (into, at) => disk.read(into, at),
    write: (from, at) => disk.write(from, at),
    zero: (at, length) => disk.zero(at, length),
    flush: () => disk.flush(),
    extent: (at, limit) => disk.extent(at, limit),
    load: (at, limit) => disk.load(at, limit),
    ownExtent: (at, limit) => disk.ownExtent(at, limit),
    grow: size =>
      disk.grow(size, async () => {
        const larger = { ...header, size };
        await files.replace(HEADER_FILE, buildHeader(larger));
        header = larger;
      }),
    async stats() {
      const blocks = await countBlocks(presence);
      return {
        dataBytes: Math.min(blocks * BLOCK, disk.size),
        bytesOnDisk: data.allocated + recent.allocated + durable.allocated,
      };
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}

/** `flusher`: null when there is nothing to flush. */
function closeOnce(opened: Opened, disk: CowDisk, flusher: Flusher | null): () => Promise<void> {
  const { ground, data, recent, durable } = opened;
  let closing: Promise<void> | null = null;
  async function shut(): Promise<void> {
    await disk.stop();
    try {
      if (flusher !== null) {
        await flusher.flush();
        // Durable says the same now: the next run begins with a new one.
        ground.files.remove(RECENT);
      }
    } finally {
      await Promise.allSettled([data.close(), recent.close(), durable.close()]);
      ground.lock.release();
    }
  }
  return () => {
    closing ??= shut();
    return closing;
  };
}

/** Map pages looked at before other work gets a turn. */
const PAGES_PER_TURN = 512;

async function countBlocks(presence: Presence): Promise<number> {
  for (;;) {
    const blocks = presence.countData(PAGES_PER_TURN);
    if (blocks !== null) return blocks;
    await new Promise(resolve => setImmediate(resolve));
  }
}

/** For the next run in this boot. Best effort: the disk below has just failed. */
function markFailed(recent: MapFile, overlay: string, boot: string): void {
  try {
    recent.writeHeader({ whole: true, state: 'failed', boot, overlay });
  } catch {
    // The failure itself is already on its way to the caller.
  }
}

async function createFiles({ files }: Ground, base: Disk, options: OverlayOptions): Promise<void> {
  const size = options.size ?? base.size;
  const id = options.id ?? randomUUID();
  if (!Number.isSafeInteger(size) || size < base.size) {
    throw new ImageError('usage', `an overlay over ${base.size} bytes cannot have ${size}`, { file: files.folder });
  }
  if (new TextEncoder().encode(id).length > 64) {
    throw new ImageError('usage', 'the id of an overlay is longer than 64 bytes', { file: files.folder });
  }
  const names = files.names();
  if (names.includes(HEADER_FILE)) {
    throw new ImageError('exists', 'there is an overlay here already', { file: files.folder });
  }
  removeUnfinished(files, names);
  const durable = MapFile.create(files.open(DURABLE, 'create'), durableHeader(id), 0);
  try {
    await durable.lengthen(pagesFor(size));
    await durable.sync();
  } finally {
    await durable.close();
  }
  await files.syncNames();
  const { sectorSize } = base;
  const baseIdentity = options.baseIdentity ?? base.id;
  await files.replace(HEADER_FILE, buildHeader({ id, size, baseSize: base.size, sectorSize, baseIdentity }));
}

/** Removes what a creation left that was interrupted. Such an overlay never took a write; anything else is refused. */
function removeUnfinished(files: OverlayFiles, names: readonly string[]): void {
  if (names.some(name => isDataName(name) || name === RECENT)) {
    throw new ImageError('exists', 'there is data of an overlay whose header is missing', {
      file: `${files.folder}/${HEADER_FILE}`,
    });
  }
  files.remove(DURABLE);
}

function readHeader(files: OverlayFiles, base: Disk, options: OverlayOptions): OverlayHeader {
  const file = `${files.folder}/${HEADER_FILE}`;
  const content = files.readSmall(HEADER_FILE, MAX_HEADER);
  if (content === null) throw new ImageError('not-found', 'there is no overlay here', { file: files.folder });
  const header = parseHeader(content, file);
  const identity = options.baseIdentity ?? base.id;
  if (header.baseIdentity !== identity || header.baseSize !== base.size) {
    throw new ImageError(
      'broken-chain',
      `made over ${header.baseIdentity} (${header.baseSize} bytes), which is not ${identity} (${base.size} bytes)`,
      { file, field: 'baseIdentity' },
    );
  }
  return header;
}

const durableHeader = (overlay: string): MapHeader => ({ whole: true, state: 'durable', boot: '', overlay });

async function openDurable(files: OverlayFiles, id: string, pages: number): Promise<MapFile> {
  const file = files.open(DURABLE, 'write');
  try {
    const { map, header } = MapFile.open(file, pages);
    if (header.overlay !== id || header.state !== 'durable') {
      throw new ImageError('corrupt', `the map of overlay ${header.overlay}, not of ${id}`, { file: file.name });
    }
    if (!map.isWhole(pages)) await makeWhole(map, header, pages);
    return map;
  } catch (error) {
    void file.close();
    throw error;
  }
}

/** A map of the first version grew with its pages, and a power loss may have cut it; one of a later version never ends early. */
async function makeWhole(map: MapFile, header: MapHeader, pages: number): Promise<void> {
  if (header.whole) throw new ImageError('corrupt', 'the map of the overlay ends early', { file: map.name });
  await map.lengthen(pages);
  await map.sync();
  map.writeHeader(durableHeader(header.overlay));
  await map.sync();
}

/**
 * The recent map of an earlier run in this boot, or a new, empty one. One of another boot, or one that is not whole,
 * was left by a power loss: what it says was never promised.
 */
function openRecent(ground: Ground, id: string, pages: number): { recent: MapFile; failed: boolean } {
  const { files, boot } = ground;
  if (files.names().includes(RECENT)) {
    const file = files.open(RECENT, 'write');
    const found = tryOpen(file, pages);
    if (found !== null && found.header.boot === boot && found.header.overlay === id) {
      return { recent: found.map, failed: found.header.state === 'failed' };
    }
    void file.close();
  }
  // Aside first: a run that is killed here leaves either no recent map or a whole one.
  const aside = `${RECENT}.new`;
  files.remove(aside);
  const recent = MapFile.create(
    files.open(aside, 'create'),
    { whole: true, state: 'recent', boot, overlay: id },
    pages,
  );
  files.rename(aside, RECENT);
  return { recent, failed: false };
}

function tryOpen(file: ReturnType<OverlayFiles['open']>, pages: number): ReturnType<typeof MapFile.open> | null {
  try {
    return MapFile.open(file, pages);
  } catch (error) {
    if (error instanceof ImageError && error.fault === 'corrupt') return null;
    throw error;
  }
}

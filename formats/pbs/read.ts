import { createHash } from 'node:crypto';
import type { Adapter, Confidence, Image, ImagePoint, Keyring, LayerId, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { type Blob, blobContent, crcHolds, kindOf, readBlob } from './blob.ts';
import type { ChunkShelf } from './chunk.ts';
import { CHUNK_MAX, imagesOf, openDisk, orderedImages, type SnapshotDisk } from './disks.ts';
import { type BackupKey, keysOf } from './keys.ts';
import { MANIFEST, type Manifest, parseManifest } from './manifest.ts';
import { chunkFile, type Place, placeOf } from './place.ts';
import { blobKind, hex } from './structs.ts';
import { verifySnapshot } from './verify.ts';

const MANIFEST_MOST = 16 * 2 ** 20;
const BLOB_MOST = 2 ** 20;
const SHOWN = { none: 'no key', some: 'none of the keys' } as const;

const folderOf = (name: string): string => name.slice(0, name.length - MANIFEST.length);

/** The blob by which a key shows that it fits: a small one, else the first chunk of a disk; null when there is none. */
async function sealedBlob(manifest: Manifest, folder: string, shelf: ChunkShelf, key: BackupKey): Promise<Blob | null> {
  const small = manifest.files.find(({ encrypted, filename }) => encrypted && filename.endsWith('.blob'));
  if (small !== undefined) return readBlob(shelf.store, `${folder}${small.filename}`, BLOB_MOST);
  const image = imagesOf(manifest).find(({ encrypted }) => encrypted);
  if (image === undefined) return null;
  const { index, source } = await openDisk('' as LayerId, folder, image, { ...shelf, key });
  await using _ = source;
  if (index === null) return null;
  await index.layer.load(0, 1);
  // Zeros that are recognised by their digest are this key's.
  if (index.layer.locate(0, 1)?.kind !== 'packed') return null;
  const { digest, length } = await index.chunk(0);
  return readBlob(shelf.store, chunkFile(shelf.root, hex(digest)), length);
}

/** Whether the key fits, for manifests that do not name theirs. Only a sound blob that it cannot decrypt says no. */
async function opens(key: BackupKey, manifest: Manifest, folder: string, shelf: ChunkShelf): Promise<boolean> {
  try {
    const blob = await sealedBlob(manifest, folder, shelf, key);
    if (blob === null || kindOf(blob)?.encrypted !== true || !crcHolds(blob)) return true;
    await blobContent(blob, key, CHUNK_MAX, false);
    return true;
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    return error.where.field !== 'tag';
  }
}

type Unlocked =
  | { readonly key: BackupKey; readonly problem: null }
  | { readonly key: null; readonly problem: ImageError };

async function unlock(manifest: Manifest, folder: string, shelf: ChunkShelf, ring: Keyring): Promise<Unlocked> {
  const { keys, any, waiting } = await keysOf(ring);
  const { fingerprint } = manifest;
  const file = `${folder}${MANIFEST}`;
  for (const key of keys) {
    const fits = fingerprint === null ? await opens(key, manifest, folder, shelf) : fingerprint === key.fingerprint;
    if (!fits) continue;
    if (manifest.signedBy(key) === false) {
      return { key: null, problem: new ImageError('corrupt', 'the signature of the manifest does not hold', { file }) };
    }
    return { key, problem: null };
  }
  const named = fingerprint === null ? '' : ` ${fingerprint}`;
  const hint = waiting
    ? 'a key file needs its passphrase: give that too, as another key'
    : 'give the key file of the backup client (and its passphrase as another key)';
  const message = `encrypted with the key${named}; ${any ? SHOWN.some : SHOWN.none} that was given fits`;
  const locked = `encrypted with the key${named}`;
  const problem = any
    ? new ImageError('wrong-key', message, { file }, { hint })
    : new ImageError('locked', locked, { file }, { hint });
  return { key: null, problem };
}

/** What the snapshot holds, without what the server adds later (notes, the state of its own checks). */
function identityOf(manifest: Manifest, group: string): string {
  const hash = createHash('sha256').update(`${group} ${manifest.time.getTime()}\n`);
  for (const { filename, csum, size } of imagesOf(manifest)) hash.update(`${filename} ${csum} ${size}\n`);
  return `pbs:${hash.digest('hex')}`;
}

interface Snapshot {
  readonly manifest: Manifest;
  readonly place: Place | null;
  readonly disks: readonly SnapshotDisk[];
  readonly problem: ImageError | null;
}

async function openDisks(manifest: Manifest, folder: string, shelf: ChunkShelf): Promise<readonly SnapshotDisk[]> {
  const plain: ChunkShelf = { ...shelf, key: null };
  const files = await orderedImages(shelf.store, folder, manifest, shelf);
  return Promise.all(
    files.map(entry => {
      const id = `pbs:${folder}${entry.filename}` as LayerId;
      return openDisk(id, folder, entry, entry.encrypted ? shelf : plain);
    }),
  );
}

async function readSnapshot(name: string, store: Store, ring: Keyring): Promise<Snapshot> {
  const folder = folderOf(name);
  const blob = await readBlob(store, name, MANIFEST_MOST);
  const manifest = parseManifest(new TextDecoder().decode(await blobContent(blob, null, MANIFEST_MOST, true)), name);
  const place = placeOf(name);
  const shelf: ChunkShelf = { store, root: place?.root ?? '', key: null };
  const encrypted = imagesOf(manifest).some(file => file.encrypted);
  const unlocked = encrypted ? await unlock(manifest, folder, shelf, ring) : { key: null, problem: null };
  // Without its key a snapshot still lists its disks, and its files can be checked.
  const disks = await openDisks(manifest, folder, { ...shelf, key: unlocked.key });
  if (unlocked.problem !== null) return { manifest, place, disks, problem: unlocked.problem };
  const broken = disks.find(disk => disk.problem !== null);
  const all = disks.every(disk => disk.problem !== null);
  return { manifest, place, disks, problem: all ? (broken?.problem ?? null) : null };
}

async function openSnapshot(name: string, store: Store, ring: Keyring): Promise<Image> {
  const snapshot = await readSnapshot(name, store, ring);
  const { manifest, place, disks, problem } = snapshot;
  const group = place?.group ?? `${manifest.type}/${manifest.id}`;
  const shown: ImagePoint['disks'] = disks.map(({ name: disk, size, layer }) => ({
    name: disk,
    size,
    sectorSize: 512,
    stored: size,
    layer: problem === null ? layer : null,
  }));
  const point: ImagePoint = {
    id: `pbs:${folderOf(name)}` as LayerId,
    parent: null,
    set: group,
    time: place?.time ?? manifest.time,
    type: 'full',
    disks: shown,
    identity: identityOf(manifest, group),
    sealed: true,
    problem,
  };
  return {
    adapter: 'pbs',
    name,
    encrypted: imagesOf(manifest).some(file => file.encrypted),
    points: [point],
    warnings: disks.flatMap(disk =>
      disk.problem === null ? [] : [`${disk.name} cannot be read: ${disk.problem.message}`],
    ),
    verify: run => verifySnapshot({ folder: folderOf(name), store, root: place?.root ?? '', manifest, disks }, run),
    async [Symbol.asyncDispose]() {
      for (const { source } of disks) await source?.[Symbol.asyncDispose]();
    },
  };
}

/** A snapshot's manifest, by its name and the magic of a blob that is not encrypted. */
function probe(head: Uint8Array, _tail: Uint8Array, name: string): Confidence {
  const isNamed = name === MANIFEST || name.endsWith(`/${MANIFEST}`);
  return isNamed && blobKind(head)?.encrypted === false ? 'certain' : 'no';
}

/** Files of a snapshot beside its manifest, and what the server keeps about groups and about itself. */
function owns(name: string, has: (name: string) => boolean): boolean {
  const folder = name.slice(0, name.lastIndexOf('/') + 1);
  const own = name.slice(folder.length);
  if (/\.(?:blob|fidx|didx)$/.test(own)) return own !== MANIFEST && has(`${folder}${MANIFEST}`);
  return /(?:^|\/)(?:vm|ct|host)\/[^/]+\/(?:owner|notes)$|(?:^|\/)\.(?:gc-status|lock)$/.test(name);
}

/** Reads the datastore of a Proxmox Backup Server: each snapshot is one image, opened by its manifest. */
export const pbs: Adapter = {
  name: 'pbs',
  title: 'Proxmox Backup Server',
  extensions: ['.blob'],
  supports: { differencing: false, encryption: true, compression: true, write: false },
  probe,
  owns,
  // Millions of chunks, found by their digests.
  skips: folder => /(?:^|\/)\.chunks$/.test(folder),
  open: openSnapshot,
};

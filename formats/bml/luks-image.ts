/**
 * A disk of a restore point as a LUKS image, without any key: a header of the LUKS part of the key area, and behind it the
 * stored bytes of every block as they are (section 14).
 */
import { hash } from 'node:crypto';
import type { Bytes, Disk, Keyring, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { once } from '../../src/base/lazy.ts';
import { LUKS1_PAYLOAD, luks1Front } from '../../src/base/luks/make-luks1.ts';
import type { CommitDisk, PlacedCommit } from './commit.ts';
import type { Place } from './crypto.ts';
import { luksPartOf } from './luks-keys.ts';
import { DATA } from './node.ts';
import { fetchRecord } from './objects.ts';
import { insideOf, type Opened, openBml } from './read.ts';
import { bodyFits, storedTag } from './record.ts';
import { corrupt, hex, KEY_AREAS, RECORD_HEADER, sameBytes } from './structs.ts';
import { checkTable, objectsOf } from './table-read.ts';
import { Tree } from './tree.ts';

const NO_KEYS: Keyring = { secrets: async () => [] };

export interface LuksImageSpec {
  /** The file of the point. */
  readonly file: string;
  /** Which of its points, where it has several. */
  readonly time: Date | null;
  /** Name of the disk. */
  readonly disk: string;
}

/** The stored blocks of one disk, checked by the tree's digests as far as that goes without a key. */
class StoredBlocks {
  readonly #inside: Opened;
  readonly #commit: PlacedCommit;
  readonly #disk: CommitDisk;
  readonly #tree: Tree;
  /** Windows of a reader end inside of large blocks. */
  #last: { readonly block: number; readonly bytes: Promise<Uint8Array> } | null = null;

  constructor(inside: Opened, commit: PlacedCommit, disk: CommitDisk) {
    this.#inside = inside;
    this.#commit = commit;
    this.#disk = disk;
    const { shelf, file, head } = inside;
    const files = shelf.layersBeside(file.name, file.setId);
    const reach = { shelf, file, files, commit, setId: head.setId, cipher: head.cipher, keys: null };
    const objects = once(() => objectsOf(reach));
    this.#tree = new Tree({ ...disk, disk: disk.number, file, line: commit.lines - 1 }, objects);
  }

  /** Fills `into` from `at` of the disk. */
  async read(into: Uint8Array, at: Bytes): Promise<void> {
    const { blockSize } = this.#disk;
    for (let done = 0; done < into.length; ) {
      const block = Math.floor((at + done) / blockSize);
      const within = at + done - block * blockSize;
      const part = (await this.#block(block)).subarray(within, within + into.length - done);
      into.set(part, done);
      done += part.length;
    }
  }

  #block(block: number): Promise<Uint8Array> {
    if (this.#last?.block === block) return this.#last.bytes;
    const bytes = this.#fetch(block);
    this.#last = { block, bytes };
    bytes.catch(() => {
      if (this.#last?.bytes === bytes) this.#last = null;
    });
    return bytes;
  }

  async #fetch(block: number): Promise<Uint8Array> {
    const { number, size, blockSize } = this.#disk;
    const length = Math.min(blockSize, size - block * blockSize);
    const { entry, file } = await this.#tree.lookUp(block);
    const bad = (why: string, its: string, at: Bytes): never => {
      throw corrupt(`disk ${number}, block ${block}: ${why}`, its, at);
    };
    if (entry.kind !== DATA || entry.codec !== 0 || entry.stored < length) {
      return bad('it is not stored whole, as this cipher has it', this.#inside.file.name, this.#commit.at);
    }
    const objects = await this.#tree.objects();
    const { layer } = objects.lines[entry.line]!;
    const place: Place = { setId: objects.setId, layer, kind: 'data', disk: number, index: block, level: 0 };
    return fetchRecord(objects, entry, place, file, ({ record, file: its, at }) => {
      if (!bodyFits(record)) bad('the record fails its checksum', its.name, at);
      if (!sameBytes(storedTag(record, objects.cipher)!, entry.tag)) bad('the block fails its digest', its.name, at);
      return record.subarray(RECORD_HEADER, RECORD_HEADER + length);
    });
  }

  drop(): void {
    this.#tree.drop();
  }
}

/** Throws 'unsupported' for another cipher. */
function frontOf({ head, file, keyArea }: Opened, commit: PlacedCommit, disk: CommitDisk): Uint8Array {
  if (head.cipher !== 'aes-256-xts') {
    const what = head.cipher === 'none' ? 'not encrypted' : `encrypted with ${head.cipher}`;
    const message = `the set is ${what}: only one that was made with --cipher aes-256-xts becomes a LUKS image`;
    throw new ImageError('unsupported', message, { file: file.name }, { hint: 'restore it with its key' });
  }
  const part = keyArea === null ? null : luksPartOf(keyArea, file.name, KEY_AREAS[0]);
  if (part === null) throw corrupt('the key slots have no LUKS part that is sound', file.name, KEY_AREAS[0]);
  const id = hex(hash('sha256', Buffer.concat([commit.hash, disk.id]), 'buffer').subarray(0, 16));
  return luks1Front(id.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5'), part.digest, part.keys);
}

/**
 * The image as a disk to read from. Faults: 'unsupported' for a set of another cipher, 'broken-chain', 'corrupt',
 * 'not-found'. What needs the key is not checked: that the commit is the one that was written.
 */
export async function openLuksImage(store: Store, { file, time, disk: name }: LuksImageSpec): Promise<Disk> {
  await using opening = new AsyncDisposableStack();
  const inside = insideOf(opening.use(await openBml(file, store, NO_KEYS)))!;
  const points = [...inside.points.values()];
  const point = points.find(({ commit }) => commit.time === time?.getTime()) ?? points.at(-1)!;
  const { commit, problem } = point;
  const disk = commit.disks.find(one => one.name === name);
  if (disk === undefined) throw new ImageError('not-found', `there is no disk ${name}`, { file });
  const front = frontOf(inside, commit, disk);
  if (problem !== null && problem.fault !== 'locked') throw problem;
  await checkTable(inside.shelf, inside.file, commit);
  const blocks = new StoredBlocks(inside, commit, disk);
  opening.defer(() => blocks.drop());
  const opened = opening.move();
  return {
    id: `${hex(commit.hash)}/${name}/luks`,
    size: LUKS1_PAYLOAD + disk.size,
    sectorSize: 512,
    extent: (_at, limit) => ({ kind: 'data', length: limit }),
    load: async () => {},
    read(into, at) {
      const head = front.subarray(at, at + into.length);
      into.set(head);
      if (head.length < into.length) return blocks.read(into.subarray(head.length), at + head.length - LUKS1_PAYLOAD);
    },
    [Symbol.asyncDispose]: () => opened.disposeAsync(),
  };
}

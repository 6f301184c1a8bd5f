/** The volumes of one image: the one that was opened, and those beside it that hold the rest. */
import path from 'node:path';
import { filesIn } from '../../src/base/beside.ts';
import type { Bytes, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { factOf, openVolume, type Volume, volumeName } from './volume.ts';
import { readArchive } from './zip.ts';

const ENDINGS = /\.(?:aff4|af4|zip)$/i;
const MOST_CANDIDATES = 1000;
const MOST_VOLUMES = 64;

/** Files beside `name`, those first that are called alike but for a number. */
async function candidates(store: Store, name: string): Promise<readonly string[]> {
  const folder = path.posix.dirname(name);
  const masked = (text: string): string => text.replaceAll(/\d+/g, '#');
  const alike: string[] = [];
  const others: string[] = [];
  for await (const entry of filesIn(store, folder === '.' ? '' : folder)) {
    if (entry.name === name || !ENDINGS.test(entry.name)) continue;
    (masked(entry.name) === masked(name) ? alike : others).push(entry.name);
    if (alike.length + others.length >= MOST_CANDIDATES) break;
  }
  return [...alike, ...others];
}

/** Whether a file is the volume of that name, without reading its directory. null: its end does not say. */
async function isCalled(store: Store, file: string, wanted: string): Promise<boolean | null> {
  await using source = await store.open(file);
  const archive = await readArchive(source);
  const name = await volumeName(archive, null);
  return name === null ? null : name === wanted;
}

/** What is only named here lies in another volume. */
const describes = (volume: Volume, object: string): boolean => factOf(volume.graph, object, 'size') !== null;

export class Volumes implements AsyncDisposable {
  readonly #store: Store;
  readonly #all: Volume[];
  #candidates: readonly string[] | null = null;

  constructor(store: Store, first: Volume) {
    this.#store = store;
    this.#all = [first];
  }

  get all(): readonly Volume[] {
    return this.#all;
  }

  get first(): Volume {
    return this.#all[0]!;
  }

  get stored(): Bytes {
    return this.#all.reduce((sum, { source }) => sum + source.size, 0);
  }

  /** The volume that holds an object; it is looked for beside the first one. 'broken-chain' when there is none. */
  async holding(object: string): Promise<Volume> {
    const here = this.#all.find(volume => describes(volume, object) && this.#isStoredIn(volume, object));
    if (here !== undefined) return here;
    const { file, graph } = this.first;
    const place = factOf(graph, object, 'stored');
    this.#candidates ??= await candidates(this.#store, file);
    for (const name of this.#candidates) {
      const volume = await this.#volumeOf(name, object, place);
      if (volume !== null) return volume;
    }
    const message = `the volume ${place ?? 'with a part of the image'} is missing: it holds the stream ${object}`;
    throw new ImageError('broken-chain', message, { file });
  }

  #isStoredIn(volume: Volume, object: string): boolean {
    const place = factOf(volume.graph, object, 'stored');
    return place === null || place === volume.name || !place.startsWith('aff4://');
  }

  /** null: the file is no volume, or one without the object. */
  async #volumeOf(file: string, object: string, place: string | null): Promise<Volume | null> {
    if (this.#all.some(volume => volume.file === file)) return null;
    let volume: Volume;
    try {
      if (place !== null && (await isCalled(this.#store, file, place)) === false) return null;
      if (this.#all.length >= MOST_VOLUMES) return null;
      volume = await openVolume(this.#store, file);
    } catch (error) {
      // What is damaged is told by the image of its own.
      if (error instanceof ImageError) return null;
      throw error;
    }
    if (describes(volume, object) && this.#isStoredIn(volume, object)) {
      this.#all.push(volume);
      return volume;
    }
    await volume[Symbol.asyncDispose]();
    return null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const volume of this.#all) await volume[Symbol.asyncDispose]();
  }
}

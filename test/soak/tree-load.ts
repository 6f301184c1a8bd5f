/** Random work on the files of a folder, with what each has to hold kept in memory: as fsstress, but it looks afterwards. */
import fs from 'node:fs/promises';
import path from 'node:path';
import { seeded } from '../../src/overlay/overlay-model.ts';

const MOST_FILES = 40;
const MOST_BYTES = 200_000;

export class TreeLoad {
  readonly #folder: string;
  readonly #random: () => number;
  readonly #files = new Map<string, Uint8Array>();
  #made = 0;
  done = 0;

  constructor(folder: string, seed: number) {
    this.#folder = folder;
    this.#random = seeded(seed);
  }

  async run(enough: () => boolean): Promise<void> {
    await fs.mkdir(this.#folder);
    while (!enough()) {
      await this.#step();
      this.done++;
    }
  }

  /** Compares every file, and the names; `folder`: where it is mounted now. */
  async check(): Promise<number> {
    const there = (await fs.readdir(this.#folder)).sort();
    const wanted = [...this.#files.keys()].sort();
    if (there.join() !== wanted.join()) throw new Error(`MISMATCH: ${this.#folder} holds ${there}, not ${wanted}`);
    for (const [name, content] of this.#files) {
      const found = await fs.readFile(path.join(this.#folder, name));
      if (Buffer.compare(found, content) !== 0)
        throw new Error(`MISMATCH: ${this.#folder}/${name} holds something else`);
    }
    return wanted.length;
  }

  #below(n: number): number {
    return Math.floor(this.#random() * n);
  }

  #bytes(length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    const word = this.#below(2 ** 32);
    for (let i = 0; i < length; i++) bytes[i] = (Math.imul(word + (i >>> 2), 2654435761) >>> (8 * (i & 3))) & 0xff;
    return bytes;
  }

  async #step(): Promise<void> {
    const names = [...this.#files.keys()];
    if (names.length < MOST_FILES && (names.length < 5 || this.#random() < 0.4)) return this.#create();
    const name = names[this.#below(names.length)]!;
    const file = path.join(this.#folder, name);
    const content = this.#files.get(name)!;
    switch (this.#below(5)) {
      case 0:
        await fs.rm(file);
        this.#files.delete(name);
        return;
      case 1: {
        const next = `${this.#made++}-renamed`;
        await fs.rename(file, path.join(this.#folder, next));
        this.#files.delete(name);
        this.#files.set(next, content);
        return;
      }
      case 2: {
        const size = this.#below(content.length + 1);
        await fs.truncate(file, size);
        this.#files.set(name, content.slice(0, size));
        return;
      }
      default:
        return this.#overwrite(name, file, content);
    }
  }

  async #create(): Promise<void> {
    const name = `${this.#made++}`;
    const content = this.#bytes(this.#below(MOST_BYTES));
    await fs.writeFile(path.join(this.#folder, name), content, { flag: 'wx' });
    this.#files.set(name, content);
  }

  /** Inside the file or over its end, made durable now and then. */
  async #overwrite(name: string, file: string, content: Uint8Array): Promise<void> {
    const at = this.#below(content.length + 1);
    const part = this.#bytes(this.#below(MOST_BYTES / 4));
    await using handle = await fs.open(file, 'r+');
    await handle.write(part, 0, part.length, at);
    if (this.#random() < 0.3) await handle.sync();
    const next = new Uint8Array(Math.max(content.length, at + part.length));
    next.set(content);
    next.set(part, at);
    this.#files.set(name, next);
  }
}

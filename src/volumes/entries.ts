/** Names of a folder in little memory: there can be hundreds of thousands of them. */
import type { EntryKind, VolumeEntry, VolumeNode } from './contracts.ts';

/** A name whose node has a number in its file system; `open` finds it there. */
export class NumberedEntry<FileSystem> implements VolumeEntry {
  readonly name: string;
  readonly kind: EntryKind;
  readonly #within: FileSystem;
  readonly #number: number;
  readonly #open: (within: FileSystem, number: number) => Promise<VolumeNode>;

  constructor(
    name: string,
    kind: EntryKind,
    within: FileSystem,
    number: number,
    open: (within: FileSystem, number: number) => Promise<VolumeNode>,
  ) {
    this.name = name;
    this.kind = kind;
    this.#within = within;
    this.#number = number;
    this.#open = open;
  }

  node(): Promise<VolumeNode> {
    return this.#open(this.#within, this.#number);
  }
}

/** An entry whose node is opened by `open`, the same for all names of a folder. */
export class WrappedEntry implements VolumeEntry {
  readonly #entry: VolumeEntry;
  readonly #open: (entry: VolumeEntry) => Promise<VolumeNode>;

  constructor(entry: VolumeEntry, open: (entry: VolumeEntry) => Promise<VolumeNode>) {
    this.#entry = entry;
    this.#open = open;
  }

  get name(): string {
    return this.#entry.name;
  }

  get kind(): EntryKind {
    return this.#entry.kind;
  }

  node(): Promise<VolumeNode> {
    return this.#open(this.#entry);
  }
}

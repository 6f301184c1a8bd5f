/** Reading the block tree of one disk (section 7): a lookup touches as many nodes as the tree is high. */
import type { Bytes, Location } from '../../src/base/contracts.ts';
import { Recent } from '../../src/base/recent.ts';
import { DATA, ENTRY, type Entry, entryAt, FANOUT, HOLE, kindAt, NODE, nodePage, span, ZERO } from './node.ts';
import { fetchBlock, fetchNode, type Node, type Objects } from './objects.ts';
import type { SetFile } from './shelf.ts';
import { PAGE, sameBytes } from './structs.ts';

/** A numeric key for a node: positions stay below 2^45. */
const keyOf = (level: number, position: number): number => level * 2 ** 45 + position;

interface Resident {
  readonly node: Node;
  readonly key: number;
  readonly owner: Map<number, Resident>;
  used: boolean;
}

/** Decoded nodes of all open trees, within one budget of bytes. Least recently used ones go first. */
export class NodeCache {
  readonly #limit: number;
  readonly #all = new Recent<Resident, null>();

  constructor(budget: Bytes) {
    this.#limit = Math.max(64, Math.floor(budget / PAGE));
  }

  add(owner: Map<number, Resident>, key: number, node: Node): void {
    const resident: Resident = { node, key, owner, used: true };
    owner.set(key, resident);
    this.#all.put(resident, null);
    // Second chance: a node that was used since the last round goes to the back once more.
    while (this.#all.size > this.#limit) {
      const old = this.#all.oldest!.key;
      if (old.used || old === resident) {
        old.used = old === resident;
        this.#all.put(old, null);
      } else {
        this.#all.delete(old);
        old.owner.delete(old.key);
      }
    }
  }

  drop(owner: Map<number, Resident>): void {
    for (const resident of owner.values()) this.#all.delete(resident);
    owner.clear();
  }

  get size(): number {
    return this.#all.size;
  }
}

const sharedNodes = new NodeCache(32 * 1024 * 1024);

export interface TreeSpec {
  readonly disk: number;
  readonly size: Bytes;
  readonly blockSize: Bytes;
  readonly height: number;
  readonly root: Uint8Array;
  readonly file: SetFile;
  /** The newest line that its entries may refer to. */
  readonly line: number;
}

/** An entry with the file that its hint means first. */
export interface Lookup {
  readonly entry: Entry;
  readonly file: SetFile | null;
  /** The entry covers this many blocks, from a multiple of it. */
  readonly blocks: number;
}

export class Tree {
  readonly spec: TreeSpec;
  /** Read when the first of them is asked for. */
  readonly objects: () => Promise<Objects>;
  readonly #nodes = new Map<number, Resident>();
  readonly #loading = new Map<number, Promise<void>>();
  readonly #root: Node;
  readonly #cache: NodeCache;
  /** Nodes read so far, for tests that count them. */
  reads = 0;
  // The cursor of the last descent: the node and entry where it ended, and the level of that node.
  #node: Node;
  #at = 0;
  #level = 0;

  constructor(spec: TreeSpec, objects: () => Promise<Objects>, cache: NodeCache = sharedNodes) {
    this.spec = spec;
    this.objects = objects;
    this.#cache = cache;
    this.#root = { ...nodePage(spec.root), file: spec.file, line: spec.line };
    this.#node = this.#root;
  }

  /**
   * Moves the cursor to the entry that covers `block`, in a node at level `floor` or above. False: the node at the cursor is
   * to be loaded first.
   */
  #descend(block: number, floor = 1): boolean {
    let level = this.spec.height + 1;
    let node = this.#root;
    let at = 0;
    while (level > floor && kindAt(node.view, at) === NODE) {
      const position = Math.floor(block / span(level));
      const resident = this.#nodes.get(keyOf(level - 1, position));
      this.#node = node;
      this.#at = at;
      this.#level = level;
      if (resident === undefined) return false;
      resident.used = true;
      node = resident.node;
      level--;
      at = (Math.floor(block / span(level)) % FANOUT) * ENTRY;
    }
    this.#node = node;
    this.#at = at;
    this.#level = level;
    return true;
  }

  locate(at: Bytes, limit: Bytes): Location | null {
    const { blockSize } = this.spec;
    const block = Math.floor(at / blockSize);
    const within = at - block * blockSize;
    if (!this.#descend(block)) return null;
    const kind = kindAt(this.#node.view, this.#at);
    if (kind === DATA) return { kind: 'packed', unit: block, within, length: Math.min(limit, blockSize - within) };
    let next = this.#runEnd(block, kind);
    while (next * blockSize - at < limit && this.#descend(next) && kindAt(this.#node.view, this.#at) === kind) {
      next = this.#runEnd(next, kind);
    }
    return { kind: kind === HOLE ? 'absent' : 'zero', length: Math.min(limit, next * blockSize - at) };
  }

  /** First block after the entries of `kind` that follow the cursor in its node. */
  #runEnd(block: number, kind: number): number {
    const each = span(this.#level);
    let next = (Math.floor(block / each) + 1) * each;
    if (this.#node === this.#root) return next;
    for (let at = this.#at + ENTRY; at < PAGE && kindAt(this.#node.view, at) === kind; at += ENTRY) next += each;
    return next;
  }

  async load(at: Bytes): Promise<void> {
    const block = Math.floor(at / this.spec.blockSize);
    while (!this.#descend(block)) await this.#loadNode(block);
  }

  /** The node below the cursor. Concurrent calls share one read. */
  #loadNode(block: number): Promise<void> {
    const level = this.#level - 1;
    const position = Math.floor(block / span(this.#level));
    const key = keyOf(level, position);
    let loading = this.#loading.get(key);
    if (loading === undefined) {
      const entry = entryAt(this.#node.view, this.#at);
      loading = this.#fetch(entry, this.#node.file, level, position).finally(() => this.#loading.delete(key));
      this.#loading.set(key, loading);
    }
    return loading;
  }

  async #fetch(entry: Entry, file: SetFile | null, level: number, position: number): Promise<void> {
    this.reads++;
    const place = { disk: this.spec.disk, level, position };
    const node = await fetchNode(await this.objects(), entry, place, file, this.spec.blockSize);
    this.#cache.add(this.#nodes, keyOf(level, position), node);
  }

  /** The entry that covers `block`, loaded when needed. */
  async lookUp(block: number): Promise<Lookup> {
    while (!this.#descend(block)) await this.#loadNode(block);
    return { entry: entryAt(this.#node.view, this.#at), file: this.#node.file, blocks: span(this.#level) };
  }

  async #entryAbove(block: number, floor: number): Promise<Entry> {
    while (!this.#descend(block, floor)) await this.#loadNode(block);
    return entryAt(this.#node.view, this.#at);
  }

  /**
   * Whether another tree of the set holds the same at a block, and up to which block that answer holds. Equal entries are the
   * same record with all that it refers to, so that what the trees share costs one look each.
   */
  async compare(other: Tree, block: number): Promise<{ readonly same: boolean; readonly end: number }> {
    const top = this.spec.height + 1;
    const [{ lines }, { lines: theirLines }] = [await this.objects(), await other.objects()];
    for (let level = top; level >= 1; level--) {
      const ours = await this.#entryAbove(block, level);
      const theirs = await other.#entryAbove(block, level);
      const end = (Math.floor(block / span(level)) + 1) * span(level);
      const empty = [ours, theirs].map(({ kind }) => kind === HOLE || kind === ZERO);
      if (empty[0] && empty[1]) return { same: true, end };
      if (empty[0] !== empty[1]) continue;
      const line = lines[ours.line]!.id === theirLines[theirs.line]!.id;
      const { kind, session, tag } = theirs;
      if (line && ours.kind === kind && ours.session === session && sameBytes(ours.tag, tag))
        return { same: true, end };
    }
    return { same: false, end: block + 1 };
  }

  /** Opens one block into `into`, blockSize long; a hole or zero fills it with zeros. */
  async unpack(block: number, into: Uint8Array): Promise<void> {
    const { entry, file } = await this.lookUp(block);
    if (entry.kind === DATA) await fetchBlock(await this.objects(), entry, { disk: this.spec.disk, block }, file, into);
    else into.fill(0);
    const { size, blockSize } = this.spec;
    if ((block + 1) * blockSize > size) into.fill(0, Math.max(0, size - block * blockSize));
  }

  /** Gives up the nodes in memory; they are read again when needed. */
  drop(): void {
    this.#cache.drop(this.#nodes);
  }
}

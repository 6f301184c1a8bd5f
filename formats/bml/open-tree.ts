/**
 * The block tree of a disk while its layer is written: nodes are brought in when a block below them changes, and
 * written again when memory asks for it or at the commit. Nodes that did not change stay where they are.
 */
import {
  DATA,
  ENTRY,
  type Entry,
  entryAt,
  FANOUT,
  HOLE,
  heightFor,
  kindAt,
  lineAt,
  NODE,
  nodeHash,
  nodePage,
  putEntry,
  putPlain,
  sameEntry,
  span,
  storedAt,
  ZERO,
} from './node.ts';
import type { Node, NodePlace } from './objects.ts';
import { PAGE } from './structs.ts';
import type { Tree } from './tree.ts';

/** What the tree needs of the layer that is written. */
export interface TreeSink {
  /** Line of the layer's first session. */
  readonly line: number;
  /** Objects that all trees of the layer refer to, by line. */
  readonly live: number[];
  /** Reads a node of this layer or of an older one. */
  readNode(entry: Entry, place: NodePlace): Promise<Node>;
  /** Writes a node record; the entry that refers to it. */
  writeNode(bytes: Uint8Array, place: NodePlace): Promise<Entry>;
  /** Nothing refers any more to an object of the layer itself. */
  release(entry: Entry): void;
}

interface Open {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly level: number;
  readonly position: number;
  readonly parent: Open | null;
  /** Byte offset of this node's entry in its parent. */
  readonly slot: number;
  children: number;
  dirty: boolean;
  used: boolean;
}

/** 64 MiB of open nodes. */
const RESIDENT = 16384;

export class OpenTree {
  readonly disk: number;
  readonly height: number;
  /** Stored bytes of the layer's own blocks. */
  stored = 0;
  readonly #sink: TreeSink;
  readonly #limit: number;
  readonly #nodes = new Map<number, Open>();
  readonly #root: Open;
  #queue: Promise<void> = Promise.resolve();
  #waiting = 0;

  constructor(disk: number, height: number, root: Uint8Array, sink: TreeSink, limit = RESIDENT) {
    this.disk = disk;
    this.height = height;
    this.#sink = sink;
    this.#limit = limit;
    this.#root = open(root.slice(), height + 1, 0, null, 0);
  }

  /** The entry that the root has, valid after `flush`. */
  get root(): Uint8Array {
    return this.#root.bytes;
  }

  /** Replaces the entry of one block, in the order of the calls. */
  put(block: number, entry: Entry | typeof HOLE | typeof ZERO): Promise<void> | void {
    if (this.#waiting === 0) {
      const leaf = this.#resident(block);
      if (leaf !== null) return this.#replace(leaf, block, entry);
    }
    this.#waiting++;
    const done = this.#queue
      .then(async () => {
        if (this.#nodes.size >= this.#limit) await this.#evict();
        this.#replace(await this.#bring(block), block, entry);
      })
      .finally(() => this.#waiting--);
    this.#queue = done.catch(() => {});
    return done;
  }

  #replace(leaf: Open, block: number, entry: Entry | typeof HOLE | typeof ZERO): void {
    const at = leaf === this.#root ? 0 : (block % FANOUT) * ENTRY;
    this.#count(leaf.view, at, -1);
    this.#release(leaf.view, at);
    if (typeof entry === 'number') putPlain(leaf.view, at, entry);
    else putEntry(leaf.view, at, entry);
    this.#count(leaf.view, at, 1);
    leaf.dirty = true;
  }

  #count(view: DataView, at: number, by: 1 | -1): void {
    const kind = kindAt(view, at);
    if (kind !== DATA && kind !== NODE) return;
    const line = lineAt(view, at);
    this.#sink.live[line] = this.#sink.live[line]! + by;
    if (kind === DATA && line >= this.#sink.line) this.stored += by * storedAt(view, at);
  }

  #release(view: DataView, at: number): void {
    const kind = kindAt(view, at);
    if ((kind === DATA || kind === NODE) && lineAt(view, at) >= this.#sink.line) this.#sink.release(entryAt(view, at));
  }

  /** The leaf of `block` when the whole path to it is in memory. */
  #resident(block: number): Open | null {
    let node = this.#root;
    while (node.level > 1) {
      const child = this.#nodes.get(keyOf(node.level - 1, Math.floor(block / span(node.level))));
      if (child === undefined) return null;
      node = child;
    }
    node.used = true;
    return node;
  }

  async #bring(block: number): Promise<Open> {
    let node = this.#root;
    while (node.level > 1) {
      const level = node.level - 1;
      const position = Math.floor(block / span(node.level));
      const key = keyOf(level, position);
      let child = this.#nodes.get(key);
      if (child === undefined) {
        const slot = node === this.#root ? 0 : (position % FANOUT) * ENTRY;
        child = open(await this.#contents(node, slot, level, position), level, position, node, slot);
        node.children++;
        this.#nodes.set(key, child);
      }
      node = child;
    }
    node.used = true;
    return node;
  }

  async #contents(node: Open, slot: number, level: number, position: number): Promise<Uint8Array> {
    const kind = kindAt(node.view, slot);
    if (kind === NODE) {
      const found = await this.#sink.readNode(entryAt(node.view, slot), { disk: this.disk, level, position });
      return found.bytes.slice();
    }
    const bytes = new Uint8Array(PAGE);
    if (kind === ZERO) for (let at = 0; at < PAGE; at += ENTRY) bytes[at] = ZERO;
    return bytes;
  }

  /** Writes and forgets nodes that have no open ones below them, until a quarter of the memory is free. */
  async #evict(): Promise<void> {
    const target = Math.floor(this.#limit * 0.75);
    let looks = this.#nodes.size * 3;
    for (const [key, node] of this.#nodes) {
      if (this.#nodes.size <= target || looks-- === 0) break;
      this.#nodes.delete(key);
      if (node.children > 0 || node.used) {
        node.used = false;
        this.#nodes.set(key, node);
        continue;
      }
      await this.#write(node);
      node.parent!.children--;
    }
  }

  /** Brings the parent's entry up to date with a node; one that is all hole or all zero becomes an entry of that kind. */
  async #write(node: Open): Promise<void> {
    if (!node.dirty) return;
    const parent = node.parent!;
    const { view } = parent;
    const plain = uniform(node);
    const old = kindAt(view, node.slot) === NODE ? entryAt(view, node.slot) : null;
    node.dirty = false;
    if (plain === null && old !== null && Buffer.compare(nodeHash(node.bytes), old.tag) === 0) return;
    const place = { disk: this.disk, level: node.level, position: node.position };
    const entry = plain ?? (await this.#sink.writeNode(node.bytes, place));
    this.#count(view, node.slot, -1);
    this.#release(view, node.slot);
    if (typeof entry === 'number') putPlain(view, node.slot, entry);
    else putEntry(view, node.slot, entry);
    this.#count(view, node.slot, 1);
    parent.dirty = true;
  }

  /** Writes every changed node, lowest first. */
  async flush(): Promise<void> {
    await this.#queue;
    const nodes = [...this.#nodes.values()].filter(node => node.dirty || node.children > 0);
    nodes.sort((a, b) => a.level - b.level || a.position - b.position);
    for (const node of nodes) await this.#write(node);
    this.#nodes.clear();
    this.#root.children = 0;
  }
}

const keyOf = (level: number, position: number): number => level * 2 ** 45 + position;

function open(bytes: Uint8Array, level: number, position: number, parent: Open | null, slot: number): Open {
  return { ...nodePage(bytes), level, position, parent, slot, children: 0, dirty: false, used: true };
}

/** HOLE or ZERO when all entries are that; otherwise null. */
function uniform({ view }: Open): typeof HOLE | typeof ZERO | null {
  const kind = kindAt(view, 0);
  if (kind !== HOLE && kind !== ZERO) return null;
  for (let at = ENTRY; at < PAGE; at += ENTRY) if (!sameEntry(view, 0, view, at)) return null;
  return kind;
}

/** Takes everything below an entry of a node at `level` out of the counts. */
async function release(view: DataView, at: number, level: number, place: NodePlace, sink: TreeSink): Promise<void> {
  const kind = kindAt(view, at);
  if (kind !== DATA && kind !== NODE) return;
  const entry = entryAt(view, at);
  sink.live[entry.line] = sink.live[entry.line]! - 1;
  if (kind === DATA) return;
  const node = await sink.readNode(entry, place);
  for (let slot = 0; slot < FANOUT; slot++) {
    const below = { disk: place.disk, level: level - 2, position: place.position * FANOUT + slot };
    await release(node.view, slot * ENTRY, level - 1, below, sink);
  }
}

/** Takes the whole tree of a disk that the new layer does not have out of the counts. */
export const releaseTree = ({ spec }: Tree, sink: TreeSink): Promise<void> =>
  release(nodePage(spec.root).view, 0, spec.height + 1, { disk: spec.disk, level: spec.height, position: 0 }, sink);

/** Cuts everything from `blocks` on away, along the path to the last block that stays. */
async function clip(bytes: Uint8Array, at: number, place: NodePlace, blocks: number, sink: TreeSink): Promise<void> {
  const { view } = nodePage(bytes);
  if (kindAt(view, at) !== NODE) return;
  const old = entryAt(view, at);
  const node = (await sink.readNode(old, place)).bytes.slice();
  const inner = nodePage(node);
  const each = span(place.level);
  const keep = Math.ceil((blocks - place.position * each * FANOUT) / each);
  if (place.level > 1 && keep > 0) {
    const position = place.position * FANOUT + keep - 1;
    await clip(node, (keep - 1) * ENTRY, { disk: place.disk, level: place.level - 1, position }, blocks, sink);
  }
  for (let slot = Math.max(0, keep); slot < FANOUT; slot++) {
    const below = { disk: place.disk, level: place.level - 1, position: place.position * FANOUT + slot };
    await release(inner.view, slot * ENTRY, place.level, below, sink);
    putPlain(inner.view, slot * ENTRY, HOLE);
  }
  if (Buffer.compare(nodeHash(node), old.tag) === 0) return;
  const entry = await sink.writeNode(node, place);
  sink.live[old.line] = sink.live[old.line]! - 1;
  sink.live[entry.line] = sink.live[entry.line]! + 1;
  putEntry(view, at, entry);
}

/** The parent's tree with the height and the end that a disk of `blocks` has. */
export async function openTree(
  disk: number,
  blocks: number,
  parent: Tree | null,
  sink: TreeSink,
  limit?: number,
): Promise<OpenTree> {
  const height = heightFor(blocks);
  if (parent === null) return new OpenTree(disk, height, new Uint8Array(ENTRY), sink, limit);
  const root = parent.spec.root.slice();
  const { view } = nodePage(root);
  const parentBlocks = Math.ceil(parent.spec.size / parent.spec.blockSize);
  if (blocks === 0) {
    await releaseTree(parent, sink);
    return new OpenTree(disk, height, new Uint8Array(ENTRY), sink, limit);
  }
  let level = parent.spec.height;
  for (; level > height; level--) {
    if (kindAt(view, 0) !== NODE) continue;
    const old = entryAt(view, 0);
    const node = await sink.readNode(old, { disk, level, position: 0 });
    sink.live[old.line] = sink.live[old.line]! - 1;
    for (let slot = 1; slot < FANOUT; slot++) {
      await release(node.view, slot * ENTRY, level, { disk, level: level - 1, position: slot }, sink);
    }
    root.set(node.bytes.subarray(0, ENTRY));
  }
  if (blocks < parentBlocks) await clip(root, 0, { disk, level, position: 0 }, blocks, sink);
  for (; level < height; level++) {
    if (kindAt(view, 0) === HOLE) continue;
    const node = new Uint8Array(PAGE);
    node.set(root);
    const entry = await sink.writeNode(node, { disk, level: level + 1, position: 0 });
    sink.live[entry.line] = sink.live[entry.line]! + 1;
    putEntry(view, 0, entry);
  }
  return new OpenTree(disk, height, root, sink, limit);
}

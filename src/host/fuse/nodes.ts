/** Which node id stands for which path, and what the kernel holds open. */
import { createHash } from 'node:crypto';
import type { DirNode, FileNode, Node, OpenFile } from '../../base/contracts.ts';
import { type Connection, createJournal, type Journal, type Line, noJournal, readJournal } from './journal.ts';
import { ROOT_ID } from './protocol.ts';

/** What the kernel knows by an id. There is one for every file that was ever listed, so it has its name and no path. */
export class Entry {
  readonly id: number;
  /** null: the root. */
  readonly parent: Entry | null;
  readonly name: string;
  /** What the kernel was last told for each name in it. */
  #children: Map<string, Entry> | null = null;
  /** How many answers with this id the kernel has not forgotten. Not known after a take-over: then it stays for good. */
  lookups: number;
  /** State of a read-only file when it was last opened: pages that the kernel kept are good while it is the same. */
  cached: string | null = null;
  /** Of a link that may point elsewhere one day, what the kernel keeps of it. */
  readonly target: string | null;
  #node: Node | WeakRef<Node> | null;

  constructor(
    id: number,
    parent: Entry | null,
    name: string,
    node: Node | null,
    lookups: number,
    target = targetOf(node),
  ) {
    this.id = id;
    this.parent = parent;
    this.name = name;
    this.lookups = lookups;
    this.target = target;
    this.#node = node === null ? null : kept(node);
  }

  get path(): string {
    return this.parent === null ? '' : `${this.parent.path}/${this.name}`;
  }

  child(name: string): Entry | undefined {
    return this.#children?.get(name);
  }

  adopt(child: Entry): void {
    this.#children ??= new Map();
    this.#children.set(child.name, child);
  }

  drop(child: Entry): void {
    if (this.#children?.get(child.name) === child) this.#children.delete(child.name);
  }

  /** null after a take-over, or when the memory was needed, until the path is walked again. */
  get node(): Node | null {
    return this.#node instanceof WeakRef ? (this.#node.deref() ?? null) : this.#node;
  }

  set node(node: Node) {
    this.#node = kept(node);
  }

  /** It can be found again. */
  forgetNode(): void {
    this.#node = null;
  }
}

const targetOf = (node: Node | null): string | null =>
  node?.kind === 'link' && node.recorded === undefined ? node.target : null;

/** What is in a backup can be found again, and is not kept because the kernel remembers it. */
const isAgainFound = (node: Node): boolean => node.recorded !== undefined;
/** Weak references are for folders alone, since each costs more than the rest of an entry. */
const kept = (node: Node): Node | WeakRef<Node> =>
  node.kind === 'dir' && isAgainFound(node) ? new WeakRef(node) : node;

/** Files out of backups that stay for whoever opens what he has just looked up. */
const RECENT = 1024;

/** A name in a folder, by the folder's id. */
export interface Name {
  readonly parent: number;
  readonly name: string;
}

export interface Handle {
  readonly fh: number;
  readonly id: number;
  readonly flags: number;
  /** The OPEN request that made it; one that is sent again must not make another. */
  readonly unique: string;
  /** null: to be opened (again) at its first use, or a directory. */
  file: OpenFile | null;
  opening: Promise<OpenFile> | null;
  /** Names of a directory, as they were when it was read from its start. */
  names: readonly { readonly name: string; readonly kind: Node['kind'] | 'unknown' }[] | null;
}

/** The same path has the same number on every mount. 52 bits: exact also where numbers are doubles. */
export function inodeOf(path: string): number {
  if (path === '') return ROOT_ID;
  const digest = createHash('sha1').update(path).digest();
  return digest.readUIntBE(0, 6) * 16 + (digest[6]! >> 4) + 2;
}

/** What tells that the content behind a path is not the one that the kernel may have pages of. */
export const stateOf = (file: FileNode): string => `${file.mtime.getTime()} ${file.size()}`;

const sameThing = (a: Node | null, b: Node): boolean =>
  a === null || (a.kind === b.kind && (a.kind !== 'file' || b.kind !== 'file' || a.writable === b.writable));

const lineOf = ({ id, path, target }: Entry): Line => (target === null ? ['n', id, path] : ['n', id, path, target]);

/** The journal is made anew when it has this many lines more than four for each thing that is alive. */
const SLACK = 4096;

export class Table {
  readonly #root: Entry;
  readonly #entries = new Map<number, Entry>();
  readonly #handles: (Handle | undefined)[] = [];
  readonly #freeHandles: number[] = [];
  readonly #journal: Journal;
  #nextId = ROOT_ID + 1;
  #connection: Connection | null = null;
  readonly #recent: Entry[] = [];
  #oldest = 0;

  /** The last commit failed: what it had to write is still to be written. */
  #owes = false;

  private constructor(root: DirNode, journal: Journal) {
    this.#journal = journal;
    this.#root = new Entry(ROOT_ID, null, '', root, Number.POSITIVE_INFINITY);
    this.#keep(this.#root);
  }

  static fresh(root: DirNode, nodesFile: string | undefined): Table {
    return new Table(root, nodesFile === undefined ? noJournal : createJournal(nodesFile));
  }

  /** Goes on with what an earlier process recorded. */
  static resumed(root: DirNode, nodesFile: string): Table {
    const lines = readJournal(nodesFile);
    const table = new Table(root, createJournal(nodesFile, lines));
    for (const line of lines) table.#adopt(line);
    for (let fh = 0; fh < table.#handles.length; fh++)
      if (table.#handles[fh] === undefined) table.#freeHandles.push(fh);
    table.#journal.rewrite(table.#lines());
    return table;
  }

  #adopt(line: Line): void {
    switch (line[0]) {
      case 'i':
        this.#connection = line[1];
        break;
      case 'n':
        this.#keep(this.#recorded(line[1], line[2], line[3] ?? null));
        this.#nextId = Math.max(this.#nextId, line[1] + 1);
        break;
      case 'o': {
        const [, fh, id, flags, unique] = line;
        this.#handles[fh] = { fh, id, flags, unique, file: null, opening: null, names: null };
        break;
      }
      case 'c':
        this.#handles[line[1]] = undefined;
        break;
    }
  }

  /** The kernel may have forgotten a folder whose id came before that of something in it. */
  #recorded(id: number, path: string, target: string | null): Entry {
    const names = path.split('/').slice(1);
    const name = names.pop() ?? '';
    let parent = this.#root;
    for (const its of names)
      parent = parent.child(its) ?? new Entry(0, parent, its, null, Number.POSITIVE_INFINITY, null);
    return new Entry(id, parent, name, null, Number.POSITIVE_INFINITY, target);
  }

  #keep(entry: Entry): void {
    this.#entries.set(entry.id, entry);
    entry.parent?.adopt(entry);
  }

  *#alive(): Iterable<Line> {
    if (this.#connection !== null) yield ['i', this.#connection];
    for (const entry of this.#entries.values()) if (entry.id !== ROOT_ID) yield lineOf(entry);
    for (const handle of this.handles()) yield ['o', handle.fh, handle.id, handle.flags, handle.unique];
  }

  #lines(): Line[] {
    return [...this.#alive()];
  }

  get connection(): Connection | null {
    return this.#connection;
  }

  set connection(value: Connection) {
    this.#connection = value;
    this.#journal.note(['i', value]);
  }

  entry(id: number): Entry | undefined {
    return this.#entries.get(id);
  }

  /** The entry for `name` in `parent`, counted once more. A thing of another kind, or a link to elsewhere, gets another id. */
  give(parent: Entry, name: string, node: Node): Entry {
    const known = parent.child(name);
    if (known !== undefined && known.target === targetOf(node) && sameThing(known.node, node)) {
      known.node = node;
      known.lookups++;
      this.#note(known, node);
      return known;
    }
    const entry = new Entry(this.#nextId++, parent, name, node, 1);
    this.#keep(entry);
    this.#note(entry, node);
    this.#journal.note(lineOf(entry));
    return entry;
  }

  #note(entry: Entry, node: Node): void {
    if (node.kind === 'dir' || !isAgainFound(node)) return;
    this.#recent[this.#oldest]?.forgetNode();
    this.#recent[this.#oldest] = entry;
    this.#oldest = (this.#oldest + 1) % RECENT;
  }

  /** Finds an entry's node again. */
  found(entry: Entry, node: Node): void {
    entry.node = node;
    this.#note(entry, node);
  }

  /** Links that the kernel may know and that may point elsewhere by now. */
  *links(): Iterable<Name> {
    for (const { parent, name, target } of this.#entries.values()) {
      if (target !== null && parent !== null && this.#entries.get(parent.id) === parent)
        yield { parent: parent.id, name };
    }
  }

  forget(id: number, count: number): void {
    const entry = this.#entries.get(id);
    if (entry === undefined) return;
    entry.lookups -= count;
    if (entry.lookups > 0) return;
    this.#entries.delete(id);
    entry.parent?.drop(entry);
  }

  open(entry: Entry, flags: number, unique: string, file: OpenFile | null): Handle {
    const fh = this.#freeHandles.pop() ?? this.#handles.length;
    const handle: Handle = { fh, id: entry.id, flags, unique, file, opening: null, names: null };
    this.#handles[fh] = handle;
    this.#journal.note(['o', fh, entry.id, flags, unique]);
    return handle;
  }

  handle(fh: number): Handle | undefined {
    return this.#handles[fh];
  }

  /** The handle that an OPEN made whose answer never arrived. */
  madeBy(unique: string): Handle | undefined {
    return this.#handles.find(handle => handle?.unique === unique);
  }

  *handles(): Iterable<Handle> {
    for (const handle of this.#handles) if (handle !== undefined) yield handle;
  }

  close(handle: Handle): void {
    if (this.#handles[handle.fh] !== handle) return;
    this.#handles[handle.fh] = undefined;
    this.#freeHandles.push(handle.fh);
    this.#journal.note(['c', handle.fh]);
  }

  /** Records what the next answer gives away. */
  commit(): void {
    this.#owes = true;
    this.#journal.commit();
    const alive = this.#entries.size + this.#handles.length;
    if (this.#journal.length > SLACK + 4 * alive) this.#journal.rewrite(this.#lines());
    this.#owes = false;
  }

  /** Before a request: writes what the last commit could not, such as that a handle was closed, which is told only once. */
  settle(): void {
    if (!this.#owes) return;
    try {
      this.commit();
    } catch {
      // The next request tries again.
    }
  }

  end(): void {
    this.#journal.close();
  }
}

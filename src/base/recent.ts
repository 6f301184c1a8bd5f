/**
 * Values in the order of their use. A Map alone keeps an order too, but whoever asks one for its first entry passes over all
 * that were deleted in front of it, again and again.
 */
export interface Entry<K, V> {
  readonly key: K;
  readonly value: V;
}

interface Link<K, V> extends Entry<K, V> {
  value: V;
  older: Link<K, V> | null;
  newer: Link<K, V> | null;
}

export class Recent<K, V> {
  readonly #links = new Map<K, Link<K, V>>();
  #oldest: Link<K, V> | null = null;
  #youngest: Link<K, V> | null = null;

  get size(): number {
    return this.#links.size;
  }

  get oldest(): Entry<K, V> | null {
    return this.#oldest;
  }

  has(key: K): boolean {
    return this.#links.has(key);
  }

  /** Leaves the order as it is. */
  get(key: K): V | undefined {
    return this.#links.get(key)?.value;
  }

  /** What was used last. */
  use(key: K): V | undefined {
    // What was asked for last is asked for again by the next read as a rule.
    const link = this.#youngest?.key === key ? this.#youngest : this.#links.get(key);
    if (link === undefined) return undefined;
    this.#toEnd(link);
    return link.value;
  }

  /** In place of what has the key now; used last. */
  put(key: K, value: V): void {
    let link = this.#links.get(key);
    if (link === undefined) {
      link = { key, value, older: null, newer: null };
      this.#links.set(key, link);
    }
    link.value = value;
    this.#toEnd(link);
  }

  delete(key: K): V | undefined {
    const link = this.#links.get(key);
    if (link === undefined) return undefined;
    this.#links.delete(key);
    this.#takeOut(link);
    return link.value;
  }

  takeOldest(): Entry<K, V> | null {
    const oldest = this.#oldest;
    if (oldest !== null) this.delete(oldest.key);
    return oldest;
  }

  #takeOut(link: Link<K, V>): void {
    const { older, newer } = link;
    if (older !== null) older.newer = newer;
    else if (this.#oldest === link) this.#oldest = newer;
    if (newer !== null) newer.older = older;
    else if (this.#youngest === link) this.#youngest = older;
    link.older = null;
    link.newer = null;
  }

  #toEnd(link: Link<K, V>): void {
    if (this.#youngest === link) return;
    this.#takeOut(link);
    link.older = this.#youngest;
    if (this.#youngest === null) this.#oldest = link;
    else this.#youngest.newer = link;
    this.#youngest = link;
  }
}

const WORDS = 4;
const FIRST = 2 ** 12;
/** At most so many digests are remembered, in 64 MiB: 12 TiB of chunks. Later ones count as new. */
const MOST = 3 * 2 ** 20;

/** Digests that were met, by their first 128 bits: open addressing in one typed array. */
export class DigestSet {
  #slots = new Uint32Array(FIRST * WORDS);
  #count = 0;

  /** False when it was there already. */
  add(digest: Uint8Array): boolean {
    const view = new DataView(digest.buffer, digest.byteOffset, WORDS * 4);
    const key: [number, number, number, number] = [0, 0, 0, 0];
    for (let i = 0; i < WORDS; i++) key[i] = view.getUint32(i * 4, true);
    // All zeros marks a free slot.
    if (key.every(word => word === 0)) return true;
    const at = this.#find(this.#slots, key);
    if (this.#slots[at + 1] !== 0 || this.#slots[at] !== 0 || this.#slots[at + 2] !== 0 || this.#slots[at + 3] !== 0)
      return false;
    if (this.#count >= MOST) return true;
    this.#slots.set(key, at);
    this.#count++;
    if (this.#count * WORDS * 4 > this.#slots.length * 3) this.#grow();
    return true;
  }

  #find(slots: Uint32Array, key: readonly [number, number, number, number]): number {
    const count = slots.length / WORDS;
    for (let slot = key[0] % count; ; slot = (slot + 1) % count) {
      const at = slot * WORDS;
      const [a, b, c, d] = [slots[at], slots[at + 1], slots[at + 2], slots[at + 3]];
      if (a === key[0] && b === key[1] && c === key[2] && d === key[3]) return at;
      if (a === 0 && b === 0 && c === 0 && d === 0) return at;
    }
  }

  #grow(): void {
    const old = this.#slots;
    const slots = new Uint32Array(old.length * 2);
    for (let at = 0; at < old.length; at += WORDS) {
      const key = [old[at]!, old[at + 1]!, old[at + 2]!, old[at + 3]!] as const;
      if (key.some(word => word !== 0)) slots.set(key, this.#find(slots, key));
    }
    this.#slots = slots;
  }
}

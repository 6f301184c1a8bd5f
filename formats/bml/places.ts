/** Where the objects of a consolidated file lie, in a few bytes each, in the order of its index (section 11). */
import type { Bytes } from '../../src/base/contracts.ts';
import type { Place } from './crypto.ts';
import { indexKey } from './held.ts';
import { ALIGN, KINDS } from './structs.ts';

/** Ascending pairs (index, offset), each as the distance from the one before in seven-bit groups. */
class PlaceList {
  readonly place: Place;
  readonly key: Uint8Array;
  count = 0;
  #bytes = new Uint8Array(64);
  #used = 0;
  #index = 0;
  #at = 0;

  constructor(place: Place) {
    this.place = place;
    this.key = indexKey({ ...place, index: 0 });
  }

  add(index: number, at: Bytes): void {
    this.#put(index - this.#index);
    this.#put((at - this.#at) / ALIGN);
    this.#index = index;
    this.#at = at;
    this.count++;
  }

  #put(distance: number): void {
    if (this.#used + 10 > this.#bytes.length) {
      const grown = new Uint8Array(this.#bytes.length * 2);
      grown.set(this.#bytes);
      this.#bytes = grown;
    }
    let rest = distance;
    for (; rest >= 128; rest = Math.floor(rest / 128)) this.#bytes[this.#used++] = (rest % 128) + 128;
    this.#bytes[this.#used++] = rest;
  }

  *entries(): Generator<{ readonly key: Uint8Array; readonly at: Bytes }> {
    let index = 0;
    let at = 0;
    let next = 0;
    const take = (): number => {
      let distance = 0;
      for (let unit = 1; ; unit *= 128) {
        const byte = this.#bytes[next++]!;
        distance += (byte % 128) * unit;
        if (byte < 128) return distance;
      }
    };
    for (let n = 0; n < this.count; n++) {
      index += take();
      at += take() * ALIGN;
      yield { key: indexKey({ ...this.place, index }), at };
    }
  }
}

/** Objects as a tree is walked: those of one kind, level, disk and layer come in ascending order. */
export class Places {
  readonly #lists = new Map<string, PlaceList>();
  count = 0;

  add(place: Place, line: number, at: Bytes): void {
    const id = `${KINDS[place.kind]} ${place.level} ${place.disk} ${line}`;
    let list = this.#lists.get(id);
    if (list === undefined) {
      list = new PlaceList(place);
      this.#lists.set(id, list);
    }
    list.add(place.index, at);
    this.count++;
  }

  /** In the order of the index. */
  *entries(): Generator<{ readonly key: Uint8Array; readonly at: Bytes }> {
    const lists = [...this.#lists.values()].sort((a, b) => Buffer.compare(a.key, b.key));
    for (const list of lists) yield* list.entries();
  }
}

/** Which files of one set hold a layer, found by its id as it stands in a layer table: without making an object of it. */
import { viewOf } from '../../src/base/struct.ts';
import type { SetFile } from './shelf.ts';

interface Held {
  readonly id: DataView;
  readonly files: SetFile[];
}

const NONE: readonly SetFile[] = [];

const sameId = (id: DataView, view: DataView, at: number): boolean =>
  id.getUint32(4) === view.getUint32(at + 4) &&
  id.getUint32(8) === view.getUint32(at + 8) &&
  id.getUint32(12) === view.getUint32(at + 12);

export class LayerFiles {
  /** By the first four bytes of the id. */
  readonly #starts = new Map<number, Held[]>();

  #find(view: DataView, at: number): Held | undefined {
    const held = this.#starts.get(view.getUint32(at));
    return held?.find(one => sameId(one.id, view, at));
  }

  /** The files that hold the layer whose id begins at `at`. */
  at(view: DataView, at: number): readonly SetFile[] {
    return this.#find(view, at)?.files ?? NONE;
  }

  of(id: Uint8Array): readonly SetFile[] {
    return this.at(viewOf(id), 0);
  }

  add(file: SetFile): void {
    for (const hex of file.layers) {
      const id = viewOf(new Uint8Array(Buffer.from(hex, 'hex')));
      const known = this.#find(id, 0);
      if (known !== undefined) {
        known.files.push(file);
        continue;
      }
      const start = id.getUint32(0);
      this.#starts.set(start, [...(this.#starts.get(start) ?? []), { id, files: [file] }]);
    }
  }

  remove(file: SetFile): void {
    for (const hex of file.layers) {
      const id = viewOf(new Uint8Array(Buffer.from(hex, 'hex')));
      const start = id.getUint32(0);
      const rest = (this.#starts.get(start) ?? [])
        .map(held => (sameId(held.id, id, 0) ? { ...held, files: held.files.filter(one => one !== file) } : held))
        .filter(({ files }) => files.length > 0);
      if (rest.length > 0) this.#starts.set(start, rest);
      else this.#starts.delete(start);
    }
  }
}

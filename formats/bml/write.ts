/** Writing a layer: blocks in any order, then the commit (section 12). */
import type { LayerId, LayerSpec, LayerWriter, WritableStore } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { isZero } from '../../src/base/range.ts';
import { Batches, type Job } from './batches.ts';
import { DATA, HOLE, ZERO } from './node.ts';
import {
  begin,
  commitLayer,
  type DiskState,
  type OpenLayer,
  refuseExisting,
  usage,
  type WriteOptions,
} from './open-layer.ts';
import type { Batch } from './pack.ts';
import { FIRST_RECORD, hex } from './structs.ts';
import { type Kept, takeKept } from './unfinished.ts';
import { Written } from './written.ts';

/** A block's number across disks, as a key for what is in flight. */
const keyOf = (disk: number, block: number): number => disk * 2 ** 42 + block;

/** A block on its way; `order` tells the writes of one block apart. */
interface Write extends Job {
  readonly state: DiskState;
  readonly key: number;
  readonly order: number;
}

class BmlWriter implements LayerWriter {
  readonly #open: OpenLayer;
  readonly #batches: Batches<Write>;
  /** Newest write in flight of a block; only these can overtake each other. */
  readonly #newest = new Map<number, number>();
  /** Every block is stored, zeros too, so that all of the disk is there as ciphertext. */
  readonly #dense: boolean;
  /** Of a dense layer, by disk. */
  readonly #written: readonly Written[];
  #writes = 0;
  #commit: Promise<void> | null = null;
  #state: 'open' | 'committing' | 'committed' | 'closed' = 'open';

  constructor(open: OpenLayer) {
    this.#open = open;
    this.#dense = open.session.spec.cipher === 'aes-256-xts';
    this.#written = this.#dense ? open.disks.map(() => new Written()) : [];
    this.#batches = new Batches(open.session.spec, (batch, writes) => this.#keep(batch, writes));
  }

  get found(): number {
    const { kept } = this.#open;
    return kept === null ? 0 : kept.unfinished.end - FIRST_RECORD;
  }

  get dense(): boolean {
    return this.#dense;
  }

  get stored(): number {
    return this.#open.session.end;
  }

  async write(disk: number, block: number, data: Uint8Array | 'zero' | 'absent'): Promise<void> {
    if (this.#state !== 'open') throw usage('the layer is no longer open', this.#open.name);
    await this.#put(disk, block, data);
  }

  async #put(disk: number, block: number, data: Uint8Array | 'zero' | 'absent'): Promise<void> {
    this.#batches.check();
    const state = this.#open.disks[disk];
    if (state === undefined || !Number.isSafeInteger(block) || block < 0 || block >= state.blocks) {
      throw new ImageError('out-of-range', `disk ${disk} has no block ${block}`, { file: this.#open.name });
    }
    const key = keyOf(disk, block);
    const length = this.#lengthOf(state, block);
    this.#written[disk]?.add(block);
    if (typeof data !== 'string') {
      const { blockSize } = this.#open.spec;
      if (data.length !== blockSize && data.length !== length) {
        throw usage(`block ${block} has ${data.length} bytes instead of ${length}`, this.#open.name);
      }
      if (this.#dense || !isZero(data.subarray(0, length))) {
        return this.#store(state, key, block, data.subarray(0, length));
      }
    }
    this.#newest.delete(key);
    if (data === 'absent') await this.#uncover(state, key, block);
    else await this.#storeEmpty(state, key, block, ZERO);
  }

  #lengthOf({ spec }: DiskState, block: number): number {
    const { blockSize } = this.#open.spec;
    return Math.min(blockSize, spec.size - block * blockSize);
  }

  #storeEmpty(state: DiskState, key: number, block: number, kind: typeof HOLE | typeof ZERO): Promise<void> | void {
    if (!this.#dense) return state.tree.put(block, kind);
    return this.#store(state, key, block, new Uint8Array(this.#lengthOf(state, block)));
  }

  async #store(state: DiskState, key: number, block: number, data: Uint8Array): Promise<void> {
    const order = this.#writes++;
    this.#newest.set(key, order);
    const { kept } = this.#open;
    if (kept !== null && (await this.#storedBefore(kept, state, { key, block, order }, data))) return;
    const counter = this.#open.session.takeCounter();
    await this.#batches.add({ disk: state.number, block, counter, state, key, order }, data);
  }

  /** True: an earlier run stored just this, or a later write of the block has overtaken this one. */
  async #storedBefore(
    kept: Kept,
    state: DiskState,
    { key, block, order }: { readonly key: number; readonly block: number; readonly order: number },
    data: Uint8Array,
  ): Promise<boolean> {
    const found = await takeKept(kept, state.number, block, data);
    if (found === null) return false;
    const current = this.#newest.get(key) === order;
    if (!found.same || !current) {
      this.#open.session.release(found.entry);
      return !current;
    }
    this.#newest.delete(key);
    await state.tree.put(block, found.entry);
    return true;
  }

  /** Appends the records of a batch and makes the trees refer to them. What was written again meanwhile is dropped. */
  async #keep(batch: Batch, writes: readonly Write[]): Promise<void> {
    const { session } = this.#open;
    const current = (i: number): boolean => this.#newest.get(writes[i]!.key) === writes[i]!.order;
    const places = await session.appendBatch(batch, writes.length, current);
    for (const [i, { state, key, block }] of writes.entries()) {
      const place = places[i]!;
      if (place === null) continue;
      const entry = session.entryOf(batch, i, place);
      if (!current(i)) {
        session.release(entry);
        continue;
      }
      this.#newest.delete(key);
      const putting = state.tree.put(block, entry);
      if (putting instanceof Promise) await putting;
    }
  }

  /** The parent's entry again; where a shrunk disk ends inside a block, the part of the parent's that is left. */
  async #uncover(state: DiskState, key: number, block: number): Promise<void> {
    const { parent } = state;
    const { blockSize } = this.#open.spec;
    if (parent === null || block * blockSize >= parent.spec.size) return this.#storeEmpty(state, key, block, HOLE);
    const order = this.#writes++;
    this.#newest.set(key, order);
    const { entry } = await parent.lookUp(block);
    if (this.#newest.get(key) !== order) return;
    this.#newest.delete(key);
    if (entry.kind !== DATA) return this.#storeEmpty(state, key, block, entry.kind === ZERO ? ZERO : HOLE);
    const length = this.#lengthOf(state, block);
    const theirs = Math.min(blockSize, parent.spec.size - block * blockSize);
    if (length < theirs || (this.#dense && length > theirs)) {
      const whole = new Uint8Array(blockSize);
      await parent.unpack(block, whole);
      return this.#store(state, key, block, whole.subarray(0, length));
    }
    return state.tree.put(block, entry);
  }

  /**
   * What a shrunk disk's last block lost must not come back when a later layer grows it again. What was the last block of a
   * disk that grew is short; a dense layer has it in its new length.
   */
  async fitEnds(): Promise<void> {
    const { blockSize } = this.#open.spec;
    for (const [i, { parent, spec, blocks }] of this.#open.disks.entries()) {
      if (parent === null) continue;
      const cut = spec.size % blockSize !== 0 && spec.size < parent.spec.size;
      const grown = this.#dense && parent.spec.size % blockSize !== 0 && spec.size > parent.spec.size;
      if (cut) await this.write(i, blocks - 1, 'absent');
      if (grown) await this.write(i, Math.floor(parent.spec.size / blockSize), 'absent');
    }
  }

  /** What nobody wrote of a dense layer, and its parent does not have, is zeros. */
  async #fill(): Promise<void> {
    for (const [i, written] of this.#written.entries()) {
      const { parent, blocks } = this.#open.disks[i]!;
      const from = parent === null ? 0 : Math.ceil(parent.spec.size / this.#open.spec.blockSize);
      for (let block = from; block < blocks; block++) if (!written.has(block)) await this.#put(i, block, 'zero');
    }
  }

  async commit(): Promise<LayerId> {
    if (this.#state !== 'open') throw usage('the layer is no longer open', this.#open.name);
    this.#state = 'committing';
    this.#commit = this.#finish();
    await this.#commit;
    return hex(this.#open.layer) as LayerId;
  }

  async #finish(): Promise<void> {
    const { store, file, name, work } = this.#open;
    await this.#fill();
    await this.#batches.drain();
    await this.#batches.end();
    await commitLayer(this.#open);
    await file[Symbol.asyncDispose]();
    await refuseExisting(store, name);
    await store.rename(work.partial, name);
    this.#state = 'committed';
    await work.end(false);
  }

  /** Waits for a commit that is under way; what was not committed is removed. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#commit?.catch(() => {});
    if (this.#state === 'committed' || this.#state === 'closed') return;
    this.#state = 'closed';
    await this.#batches.drain().catch(() => {});
    await this.#batches.end();
    await this.#open.work.end(true);
  }
}

export async function createBml(
  name: string,
  store: WritableStore,
  spec: LayerSpec,
  options: WriteOptions = {},
): Promise<LayerWriter> {
  const writer = new BmlWriter(await begin(name, store, spec, options));
  try {
    await writer.fitEnds();
    return writer;
  } catch (error) {
    await writer[Symbol.asyncDispose]();
    throw error;
  }
}

/**
 * The plainest possible reader of a chain: no cache, no index, every answer asked for again. What an adapter says is
 * judged through it, independently of the product's own read path.
 */
import path from 'node:path';
import type { Adapter, Bytes, Image, ImagePoint, Keyring, Layer, ParentRef, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';

export interface Stack extends AsyncDisposable {
  readonly size: Bytes;
  readonly point: ImagePoint;
  readonly image: Image;
  /** Tip first. */
  readonly layers: readonly Layer[];
  read(into: Uint8Array, at: Bytes): Promise<void>;
  /** Data or zeros at `at`, and for how long. */
  extent(at: Bytes, limit: Bytes): Promise<{ readonly zero: boolean; readonly length: Bytes }>;
}

/** Asks and loads until there is an answer; a layer that never answers is a fault. */
export async function locate(layer: Layer, at: Bytes, limit: Bytes) {
  for (let tries = 0; tries < 8; tries++) {
    const found = layer.locate(at, limit);
    if (found !== null) {
      if (!(found.length >= 1 && found.length <= limit)) {
        throw new Error(`locate(${at}, ${limit}) answers for ${found.length} bytes`);
      }
      return found;
    }
    await layer.load(at, limit);
  }
  throw new Error(`locate(${at}) has no answer after load`);
}

async function readLayers(layers: readonly Layer[], depth: number, into: Uint8Array, at: Bytes): Promise<void> {
  const layer = layers[depth];
  const there = layer === undefined ? 0 : Math.max(0, Math.min(into.length, layer.size - at));
  into.fill(0, there);
  for (let done = 0; done < there; ) {
    const found = await locate(layer!, at + done, there - done);
    const part = into.subarray(done, done + found.length);
    switch (found.kind) {
      case 'zero':
        part.fill(0);
        break;
      case 'absent':
        await readLayers(layers, depth + 1, part, at + done);
        break;
      case 'plain': {
        // A format may leave out the zeros after the last byte that it stores.
        const stored = Math.max(0, Math.min(part.length, found.source.size - found.at));
        if (stored < part.length) throw new ImageError('corrupt', 'data beyond the end of the file', { at: found.at });
        await found.source.read(part, found.at);
        break;
      }
      case 'packed': {
        const unit = new Uint8Array(layer!.blockSize);
        await layer!.unpack(found.unit, unit);
        part.set(unit.subarray(found.within, found.within + part.length));
      }
    }
    done += found.length;
  }
}

async function layersExtent(layers: readonly Layer[], depth: number, at: Bytes, limit: Bytes) {
  const layer = layers[depth];
  if (layer === undefined || at >= layer.size) return { zero: true, length: limit };
  const found = await locate(layer, at, Math.min(limit, layer.size - at));
  if (found.kind === 'absent') return layersExtent(layers, depth + 1, at, found.length);
  return { zero: found.kind === 'zero', length: found.length };
}

interface Found {
  readonly image: Image;
  readonly point: ImagePoint;
}

async function findParent(parent: ParentRef, child: string, store: Store, adapters: readonly Adapter[], keys: Keyring) {
  const folder = path.posix.dirname(child);
  const named = (parent.by === 'id' ? parent.names : [parent.name]).map(name =>
    path.posix.normalize(path.posix.join(folder, name)),
  );
  const names = [...named];
  if (parent.by === 'id')
    for await (const entry of store.list()) if (!names.includes(entry.name)) names.push(entry.name);
  const format = parent.by === 'name' ? parent.format : null;
  for (const name of names) {
    for (const adapter of adapters.filter(a => format === null || a.name === format)) {
      let image: Image;
      try {
        image = await adapter.open(name, store, keys);
      } catch {
        continue;
      }
      const point = parent.by === 'id' ? image.points.find(p => p.id === parent.id) : image.points.at(-1);
      if (point !== undefined) return { image, point } satisfies Found;
      await image[Symbol.asyncDispose]();
    }
  }
  throw new ImageError('broken-chain', `the parent of ${child} is not here`, { file: child });
}

export interface StackSpec {
  readonly adapter: Adapter;
  /** Adapters for parents in other formats. */
  readonly others?: readonly Adapter[];
  readonly store: Store;
  readonly name: string;
  readonly keys: Keyring;
  /** Which restore point, and which of its disks; the last and the first unless told. */
  readonly point?: number;
  readonly disk?: number;
}

/** Opens an image and everything below it. */
export async function openStack(spec: StackSpec): Promise<Stack> {
  const { adapter, store, name, keys, disk = 0 } = spec;
  const image = await adapter.open(name, store, keys);
  const opened: Image[] = [image];
  const close = async (): Promise<void> => {
    for (const each of opened) await each[Symbol.asyncDispose]();
  };
  try {
    const point = image.points.at(spec.point ?? -1);
    if (point === undefined) throw new ImageError('corrupt', 'no restore point', { file: name });
    const layers: Layer[] = [];
    for (let here: Found | null = { image, point }; here !== null; ) {
      if (here.point.problem !== null) throw here.point.problem;
      const layer = here.point.disks[disk]?.layer;
      if (layer === undefined || layer === null)
        throw new ImageError('corrupt', 'a disk without a layer', { file: name });
      layers.push(layer);
      const { parent }: ImagePoint = here.point;
      if (parent === null) break;
      // A parent inside the same file (an internal snapshot) is open already.
      const inside: ImagePoint | undefined =
        parent.by === 'id' ? here.image.points.find(p => p.id === parent.id) : undefined;
      const from: Image = here.image;
      here =
        inside !== undefined
          ? { image: from, point: inside }
          : await findParent(parent, from.name, store, [adapter, ...(spec.others ?? [])], keys);
      if (here.image !== from) opened.push(here.image);
      if (layers.length > 100) throw new ImageError('broken-chain', 'the chain has no end', { file: name });
    }
    return {
      size: layers[0]!.size,
      point,
      image,
      layers,
      read: (into, at) => readLayers(layers, 0, into, at),
      extent: (at, limit) => layersExtent(layers, 0, at, limit),
      [Symbol.asyncDispose]: close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** What the tests of this folder share: small layers, and reading them back. */
import type {
  Image,
  ImagePoint,
  Keyring,
  Layer,
  LayerCipher,
  LayerSpec,
  Store,
  WritableStore,
} from '../../src/base/contracts.ts';
import type { Derivation } from './keys.ts';
import { openBml } from './read.ts';
import { createBml } from './write.ts';

export const SECRET = Buffer.from('correct horse battery staple');
/** Cheap on purpose: the cost of a real one is tested once. */
export const CHEAP: readonly Derivation[] = [{ kdf: 'scrypt', log2N: 4, r: 1, p: 1 }];

export const keyring = (...secrets: readonly Uint8Array[]): Keyring => ({ secrets: async () => secrets });

export type BlockState = Uint8Array | 'zero' | 'absent';

export interface LayerTest {
  readonly size?: number;
  readonly sizes?: readonly number[];
  readonly blockSize?: number;
  readonly parent?: Image | null;
  readonly secret?: Uint8Array | null;
  readonly compression?: number;
  readonly openNodes?: number;
  readonly derivations?: readonly Derivation[];
  /** Of a full with a secret. */
  readonly cipher?: LayerCipher;
}

export function specOf(test: LayerTest): LayerSpec {
  const sizes = test.sizes ?? [test.size ?? 10 * 4096];
  const parent = test.parent ?? null;
  return {
    set: 'machine',
    time: new Date('2026-02-03T04:05:06Z'),
    type: parent === null ? 'full' : 'incremental',
    disks: sizes.map((size, i) => ({ name: `disk${i}`, size, sectorSize: 512 })),
    blockSize: test.blockSize ?? 4096,
    parent: parent === null ? null : { image: parent, point: parent.points.at(-1)! },
    secret: test.secret ?? null,
    compression: test.compression ?? 1,
    ...(parent === null && test.secret != null && test.cipher !== undefined ? { cipher: test.cipher } : {}),
  };
}

export type Write = readonly [disk: number, block: number, state: BlockState];

export async function writeLayer(
  store: WritableStore,
  name: string,
  test: LayerTest,
  writes: Iterable<Write>,
): Promise<string> {
  const { openNodes, derivations = CHEAP } = test;
  const options = { derivations, luksIterations: 1000, ...(openNodes === undefined ? {} : { openNodes }) };
  await using writer = await createBml(name, store, specOf(test), options);
  for (const [disk, block, state] of writes) await writer.write(disk, block, state);
  return await writer.commit();
}

export const openLayer = (store: Store, name: string, secret: Uint8Array | null = null): Promise<Image> =>
  openBml(name, store, keyring(...(secret === null ? [] : [secret])));

export function layerOf(image: Image, disk = 0): Layer {
  const point: ImagePoint = image.points.at(-1)!;
  if (point.problem !== null) throw point.problem;
  return point.disks[disk]!.layer!;
}

/** The whole disk through locate, load and unpack, as the chain reads it; holes and zeros as zeros. */
export async function readAll(layer: Layer): Promise<Uint8Array> {
  const out = new Uint8Array(layer.size);
  const block = new Uint8Array(layer.blockSize);
  for (let at = 0; at < layer.size; ) {
    const here = layer.locate(at, layer.size - at);
    if (here === null) {
      await layer.load(at, layer.size - at);
      continue;
    }
    if (here.kind === 'packed') {
      await layer.unpack(here.unit, block);
      out.set(block.subarray(here.within, here.within + here.length), at);
    }
    at += here.length;
  }
  return out;
}

/** Repeatable bytes; every third block compresses well. */
export function pattern(length: number, seed: number): Uint8Array {
  const out = new Uint8Array(length);
  let state = (seed * 2654435761 + 1) >>> 0;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    out[i] = seed % 3 === 0 ? (i % 64) + (seed % 180) : state >>> 24;
  }
  out[0] = 1 + (seed % 255);
  return out;
}

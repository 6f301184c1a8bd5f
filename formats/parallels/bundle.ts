/** A bundle (`x.hdd/`): a descriptor, and per snapshot and stretch of the disk one image file. */
import { createHash } from 'node:crypto';
import type { ByteSource, Bytes, Image, ImagePoint, Layer, LayerId, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { lastAtOrBefore } from '../../src/base/range.ts';
import { type Descriptor, parseDescriptor, type Shot, type StoredImage, type Stretch } from './descriptor.ts';
import { type OpenedFile, openExpanding, openPlain } from './image.ts';
import { SECTOR } from './structs.ts';

export const DESCRIPTOR = 'DiskDescriptor.xml';
/** A descriptor with thousands of snapshots has a few MiB. */
const LARGEST = 4 * 2 ** 20;

export const inFolderOf = (name: string, beside: string): string => name.slice(0, name.lastIndexOf('/') + 1) + beside;

export async function readDescriptor(source: ByteSource): Promise<Descriptor> {
  if (source.size > LARGEST) {
    throw new ImageError('corrupt', `a descriptor of ${source.size} bytes cannot be`, { file: source.name });
  }
  const raw = new Uint8Array(source.size);
  await source.read(raw, 0);
  return parseDescriptor(raw, source.name);
}

/** Layers of consecutive stretches as one. */
function joined(id: LayerId, size: Bytes, starts: readonly Bytes[], layers: readonly Layer[]): Layer {
  const endOf = (i: number): Bytes => starts[i + 1] ?? size;
  return {
    id,
    size,
    blockSize: layers[0]!.blockSize,
    locate(at, limit) {
      const i = lastAtOrBefore(starts, at);
      return layers[i]!.locate(at - starts[i]!, Math.min(limit, endOf(i) - at));
    },
    load(at, limit) {
      const i = lastAtOrBefore(starts, at);
      return layers[i]!.load(at - starts[i]!, Math.min(limit, endOf(i) - at));
    },
    unpack: () => Promise.reject(new ImageError('out-of-range', 'nothing is packed in a Parallels disk')),
  };
}

interface Context {
  readonly name: string;
  readonly descriptor: Descriptor;
  readonly store: Store;
  /** Every source that was opened, for closing. */
  readonly opened: ByteSource[];
  readonly warnings: string[];
}

const idOf = (name: string, guid: string): LayerId => `parallels:${name}@${guid}` as LayerId;

async function openPart(image: StoredImage, stretch: Stretch, shot: Shot, context: Context): Promise<OpenedFile> {
  const file = inFolderOf(context.name, image.file);
  let source: ByteSource;
  try {
    source = await context.store.open(file);
  } catch (cause) {
    if (!(cause instanceof ImageError && cause.fault === 'not-found')) throw cause;
    throw new ImageError('broken-chain', `the image file ${image.file} is missing`, { file }, { cause });
  }
  context.opened.push(source);
  const id = idOf(context.name, shot.guid);
  const part =
    image.type === 'plain' ? await openPlain(id, source) : await openExpanding(id, source, shot.parent !== null);
  if (part.layer.size < stretch.to - stretch.from) {
    const message = `the image has ${part.layer.size} bytes of the disk where ${stretch.to - stretch.from} belong`;
    throw new ImageError('corrupt', message, { file });
  }
  return part;
}

interface OpenedShot {
  readonly layer: Layer | null;
  readonly stored: Bytes;
  readonly witness: readonly Uint8Array[];
  readonly problem: ImageError | null;
}

/** What is wrong with one snapshot's files is that snapshot's problem alone. */
async function openShot(shot: Shot, context: Context): Promise<OpenedShot> {
  const { descriptor, name } = context;
  const none = { layer: null, stored: 0, witness: [] };
  if (descriptor.encrypted) {
    const message = 'encrypted by Parallels: it cannot be read';
    return { ...none, problem: new ImageError('unsupported', message, { file: name, field: 'Engine' }) };
  }
  try {
    const parts: OpenedFile[] = [];
    for (const stretch of descriptor.stretches) {
      const image = stretch.images.find(each => each.guid === shot.guid);
      if (image === undefined) {
        const message = `snapshot ${shot.guid} has no image for the disk from ${stretch.from} on`;
        throw new ImageError('broken-chain', message, { file: name, field: 'Image' });
      }
      parts.push(await openPart(image, stretch, shot, context));
    }
    context.warnings.push(...parts.flatMap(part => part.warnings));
    const starts = descriptor.stretches.map(stretch => stretch.from);
    return {
      layer: joined(
        idOf(name, shot.guid),
        descriptor.size,
        starts,
        parts.map(part => part.layer),
      ),
      stored: parts.reduce((sum, part) => sum + part.stored, 0),
      witness: parts.flatMap(part => part.witness),
      problem: null,
    };
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    return { ...none, problem: error };
  }
}

/** Parents first, the state in use last. */
function oldestFirst({ shots, top }: Descriptor): readonly Shot[] {
  const byGuid = new Map(shots.map(shot => [shot.guid, shot]));
  const depthOf = (shot: Shot): number => {
    let depth = 0;
    let here: Shot | undefined = shot;
    // A loop in the document ends here too; whoever orders the chain refuses it.
    while (here !== undefined && here.parent !== null && depth < shots.length) {
      here = byGuid.get(here.parent);
      depth++;
    }
    return depth;
  };
  const order = shots.map(shot => ({ shot, rank: shot.guid === top ? Number.POSITIVE_INFINITY : depthOf(shot) }));
  return order.sort((a, b) => (a.rank === b.rank ? 0 : a.rank - b.rank)).map(({ shot }) => shot);
}

async function pointOf(shot: Shot, context: Context): Promise<ImagePoint> {
  const { descriptor, name } = context;
  const { layer, stored, witness, problem } = await openShot(shot, context);
  const digest = createHash('sha256').update(`${shot.guid} ${descriptor.size} ${stored}`);
  for (const part of witness) digest.update(part);
  const parent = shot.parent === null ? null : ({ by: 'id', id: idOf(name, shot.parent), names: [] } as const);
  return {
    id: idOf(name, shot.guid),
    parent,
    set: null,
    time: null,
    type: shot.guid !== descriptor.top ? 'snapshot' : parent === null ? 'full' : 'incremental',
    disks: [{ name: 'disk0', size: descriptor.size, sectorSize: SECTOR, stored, layer }],
    identity: `parallels:${digest.digest('hex')}`,
    problem,
  };
}

/** Every snapshot of the bundle as a point. The source belongs to the image once it is open. */
export async function openBundle(source: ByteSource, store: Store): Promise<Image> {
  const { name } = source;
  const opened: ByteSource[] = [];
  const close = async (): Promise<void> => {
    for (const each of opened) await each[Symbol.asyncDispose]();
  };
  try {
    const descriptor = await readDescriptor(source);
    const context: Context = { name, descriptor, store, opened, warnings: [] };
    const points: ImagePoint[] = [];
    for (const shot of oldestFirst(descriptor)) points.push(await pointOf(shot, context));
    return {
      adapter: 'parallels',
      name,
      encrypted: descriptor.encrypted,
      points,
      warnings: context.warnings,
      async [Symbol.asyncDispose]() {
        await close();
        await source[Symbol.asyncDispose]();
      },
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** One disk: its descriptor, its parts, and the disk below it. */
import type { ByteSource, Bytes, Layer, LayerId, ParentRef } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { cidText, type Descriptor, LONGEST_DESCRIPTOR, looksLikeDescriptor, parseDescriptor } from './descriptor.ts';
import {
  type Extents,
  type Gathered,
  gather,
  openExtents,
  openSparse,
  type SparseFile,
  sample,
  sparseLayer,
} from './extents.ts';
import { openHosted } from './hosted.ts';
import { flatLayer } from './layer.ts';
import { candidates, findFile, type Opener, partName } from './names.ts';
import { magicOf, SECTOR } from './structs.ts';

export interface OpenedDisk {
  readonly id: LayerId;
  readonly size: Bytes;
  readonly stored: Bytes;
  /** null when there is a problem. */
  readonly layer: Layer | null;
  readonly parent: ParentRef | null;
  /** Holds only what differs from another disk, whether or not that one is named. */
  readonly differencing: boolean;
  readonly identity: string;
  readonly problem: ImageError | null;
  readonly warnings: readonly string[];
  readonly sources: readonly ByteSource[];
  readonly tables: Extents['tables'];
}

const readAll = async (source: ByteSource, at: Bytes, length: Bytes): Promise<Uint8Array> => {
  const raw = new Uint8Array(length);
  await source.read(raw, at);
  return raw;
};

function checkDescriptorLength(length: Bytes, file: string): void {
  if (length > LONGEST_DESCRIPTOR) {
    throw new ImageError('unsupported', `a descriptor of ${length} bytes is too long to be one`, { file, at: 0 });
  }
}

/** The text of the descriptor that the file is or holds; null for one without. */
async function descriptorText(source: ByteSource): Promise<Uint8Array | null> {
  const head = await readAll(source, 0, Math.min(SECTOR, source.size));
  const kind = magicOf(head);
  if (kind === 'hosted') {
    const { descriptor } = await openHosted(source);
    if (descriptor === null) return null;
    checkDescriptorLength(descriptor.length, source.name);
    return readAll(source, descriptor.at, descriptor.length);
  }
  if (kind !== null || !looksLikeDescriptor(head)) return null;
  checkDescriptorLength(source.size, source.name);
  return readAll(source, 0, source.size);
}

interface Below {
  readonly parent: ParentRef | null;
  readonly problem: ImageError | null;
}

/**
 * The disk below, by the name that the child knows, and whether it still is what the child was made on. A parent that is
 * missing, or that is no VMDK, is reported by whoever puts the chain in order.
 */
async function findParent(name: string, descriptor: Descriptor, { open, warnings }: Gathered): Promise<Below> {
  const { parentCid, parentHint } = descriptor;
  if (parentCid === null) {
    if (parentHint !== null)
      warnings.push(`names the parent "${parentHint}", but its parentCID says that there is none`);
    return { parent: null, problem: null };
  }
  const broken = (message: string): ImageError =>
    new ImageError('broken-chain', message, { file: name, field: 'parentCID' });
  const names = parentHint === null ? [] : candidates(name, parentHint);
  if (parentHint === null || names.length === 0) {
    return { parent: null, problem: broken(`the parent with CID ${cidText(parentCid)} is not named`) };
  }
  const found = await findFile(name, parentHint, open);
  const ref = (at: string): ParentRef => ({ by: 'name', name: at, format: 'vmdk' });
  if (found === null) return { parent: ref(names[0]!), problem: null };
  await using source = found.source;
  warnings.push(...found.warnings);
  const parent = ref(found.name);
  let its: Descriptor;
  try {
    const text = await descriptorText(source);
    if (text === null) {
      return {
        parent,
        problem: broken(
          `the parent ${found.name} has no descriptor, so that nothing tells whether it is the right one`,
        ),
      };
    }
    its = parseDescriptor(text, found.name);
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    return { parent, problem: null };
  }
  if (its.cid === parentCid) return { parent, problem: null };
  const message = `the parent ${found.name} has CID ${cidText(its.cid)}, but ${cidText(parentCid)} is expected: it was changed, or it is another disk`;
  return { parent, problem: broken(message) };
}

function embedded(
  descriptor: Descriptor,
  source: ByteSource,
  file: SparseFile,
): { source: ByteSource; file: SparseFile } {
  const { extents } = descriptor;
  if (extents.length === 1 && extents[0]!.type === 'sparse') return { source, file };
  const message = `an embedded descriptor should name one sparse extent, this one names ${extents.length} (${extents[0]!.type})`;
  throw new ImageError('unsupported', message, { file: source.name, field: 'extent' });
}

async function describedDisk(
  name: string,
  source: ByteSource,
  text: Uint8Array,
  gathered: Gathered,
): Promise<OpenedDisk> {
  const descriptor = parseDescriptor(text, name);
  gathered.digest.update(text);
  const id = `vmdk:${cidText(descriptor.cid)}:${name}` as LayerId;
  const sparse = magicOf(await readAll(source, 0, Math.min(SECTOR, source.size))) !== null;
  const self = sparse ? embedded(descriptor, source, await openSparse(source)) : null;
  const below = await findParent(name, descriptor, gathered);
  let found: Extents | null = null;
  let missing: ImageError | null = null;
  try {
    found = await openExtents(name, descriptor, self, gathered, id);
  } catch (error) {
    if (!(error instanceof ImageError) || error.fault !== 'broken-chain') throw error;
    missing = error;
  }
  const problem = below.problem ?? missing;
  return {
    id,
    size: descriptor.size,
    stored: found?.stored ?? 0,
    layer: problem === null ? (found?.layer ?? null) : null,
    parent: below.parent,
    differencing: descriptor.parentCid !== null,
    identity: `vmdk:${cidText(descriptor.cid)}:${gathered.digest.digest('hex').slice(0, 32)}`,
    problem,
    warnings: gathered.warnings,
    sources: gathered.sources,
    tables: found?.tables ?? [],
  };
}

const ALONE = 'has no descriptor; if other parts or a parent belong to the disk, they are missing here';

/** A part without its descriptor, as a disk of its own. */
async function barePart(name: string, source: ByteSource, gathered: Gathered): Promise<OpenedDisk> {
  const part = partName(name);
  const id = `vmdk:part:${name}` as LayerId;
  const raw = part?.flat === true && magicOf(await readAll(source, 0, Math.min(SECTOR, source.size))) === null;
  if (raw && (source.size === 0 || source.size % SECTOR !== 0)) {
    throw new ImageError('corrupt', `${source.size} bytes are no whole number of sectors`, {
      file: name,
      at: source.size,
    });
  }
  const file = raw ? null : await openSparse(source);
  const size = file?.size ?? source.size;
  const opened =
    file === null ? null : await sparseLayer(file, gathered, { id, hasParent: false, extents: 1, at: 0, size });
  if (file === null) await sample(gathered, source, 0, size);
  gathered.warnings.push(`${name} ${ALONE}`);
  const problem =
    part?.delta === true
      ? new ImageError('broken-chain', `the descriptor ${part.descriptor}, which tells the disk below, is missing`, {
          file: name,
        })
      : null;
  const layer = opened?.layer ?? flatLayer(id, source, 0, size);
  return {
    id,
    size,
    stored: source.size,
    layer: problem === null ? layer : null,
    parent: null,
    differencing: part?.delta === true,
    identity: `vmdk:part:${gathered.digest.digest('hex').slice(0, 32)}`,
    problem,
    warnings: gathered.warnings,
    sources: gathered.sources,
    tables: opened === null ? [] : [{ tables: opened.tables, hosted: file?.hosted ?? null }],
  };
}

/** Whether the descriptor that a part's name points to lists the part. */
async function isListed(name: string, open: Opener): Promise<boolean> {
  const part = partName(name);
  if (part === null) return false;
  try {
    await using source = await open(part.descriptor);
    const text = await descriptorText(source);
    if (text === null) return false;
    return parseDescriptor(text, part.descriptor).extents.some(line =>
      candidates(part.descriptor, line.file).includes(name),
    );
  } catch (error) {
    // What is wrong with the descriptor is told where the descriptor is opened.
    if (error instanceof ImageError) return error.fault !== 'not-found';
    throw error;
  }
}

/**
 * Opens the disk that `name` describes. null: the file is a part of a disk whose descriptor lies beside it. On success
 * `source` belongs to the disk.
 */
export async function openDisk(name: string, source: ByteSource, open: Opener): Promise<OpenedDisk | null> {
  const gathered = gather(open);
  gathered.sources.push(source);
  try {
    const text = await descriptorText(source);
    if (text !== null) return await describedDisk(name, source, text, gathered);
    if (!(await isListed(name, open))) return await barePart(name, source, gathered);
    await source[Symbol.asyncDispose]();
    return null;
  } catch (error) {
    for (const each of gathered.sources) await each[Symbol.asyncDispose]();
    throw error;
  }
}

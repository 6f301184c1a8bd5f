import { createHash } from 'node:crypto';
import { nameInStore } from '../../src/base/backing.ts';
import { ABSENT, blockLayer, ZERO } from '../../src/base/block-layer.ts';
import type { Adapter, ByteSource, Bytes, Image, ImagePoint, LayerId, ParentRef } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { isPowerOfTwo } from '../../src/base/range.ts';
import { twoLevelBlocks } from '../../src/base/two-level.ts';
import { FEATURE, HEADER_SIZE, Header, type HeaderFields, isQed } from './structs.ts';

const SECTOR = 512;
/** The specification's limits. */
const CLUSTER = { least: 4096, most: 2 ** 26 };
const MOST_TABLE_CLUSTERS = 16;
const LONGEST_NAME = 1023;

const perTable = ({ tableSize, clusterSize }: HeaderFields): number => (tableSize * clusterSize) / 8;
const firstBytes = (header: HeaderFields): Bytes =>
  Math.ceil(header.size / (header.clusterSize * perTable(header))) * 8;

function checkHeader(header: HeaderFields, source: ByteSource): void {
  const refuse = (fault: 'unsupported' | 'corrupt', message: string, field: keyof HeaderFields): never => {
    throw new ImageError(fault, message, { file: source.name, at: Header.offsetOf(field), field });
  };
  const { clusterSize, tableSize, features, size, firstAt } = header;
  const unknown = features - (features % 8n);
  if (unknown !== 0n) refuse('unsupported', `QED features 0x${unknown.toString(16)} are not known`, 'features');
  if (!isPowerOfTwo(clusterSize) || clusterSize < CLUSTER.least || clusterSize > CLUSTER.most) {
    refuse('unsupported', `clusters of ${clusterSize} bytes are not known`, 'clusterSize');
  }
  if (!isPowerOfTwo(tableSize) || tableSize > MOST_TABLE_CLUSTERS) {
    refuse('unsupported', `tables of ${tableSize} clusters are not known`, 'tableSize');
  }
  if (header.headerSize === 0 || header.headerSize * clusterSize > source.size) {
    refuse('corrupt', `a header of ${header.headerSize} clusters does not fit into the file`, 'headerSize');
  }
  if (size === 0 || size % SECTOR !== 0) refuse('corrupt', `the size ${size} is not a number of sectors`, 'size');
  if (firstBytes(header) > tableSize * clusterSize) {
    refuse('corrupt', `a disk of ${size} bytes is larger than its tables`, 'size');
  }
  if (firstAt % clusterSize !== 0 || firstAt < clusterSize || firstAt + tableSize * clusterSize > source.size) {
    refuse('corrupt', `the first table cannot lie at ${firstAt}`, 'firstAt');
  }
}

interface FoundParent {
  readonly parent: ParentRef | null;
  readonly problem: ImageError | null;
}

async function readParent(header: HeaderFields, source: ByteSource, warnings: string[]): Promise<FoundParent> {
  if (header.features % 2n !== FEATURE.backingFile) return { parent: null, problem: null };
  const { backingAt, backingLength, headerSize, clusterSize } = header;
  const where = { file: source.name, at: Header.offsetOf('backingAt'), field: 'backingAt' };
  if (backingLength === 0 || backingLength > LONGEST_NAME || backingAt + backingLength > headerSize * clusterSize) {
    throw new ImageError('corrupt', 'the name of the backing file lies outside the header', where);
  }
  const raw = new Uint8Array(backingLength);
  await source.read(raw, backingAt);
  const written = Buffer.from(raw).toString('utf8');
  const format = header.features >= FEATURE.backingIsRaw ? 'raw' : null;
  const found = nameInStore(source.name, written);
  const fail = (fault: 'unsupported' | 'broken-chain', why: string): FoundParent => ({
    parent: { by: 'name', name: written, format },
    problem: new ImageError(fault, `the backing file ${JSON.stringify(written)} ${why}`, where),
  });
  if (found.kind === 'refused') return fail('unsupported', found.why);
  if (found.name === source.name) return fail('broken-chain', 'would be this image itself');
  if (found.warning !== null) warnings.push(`the backing file ${found.warning}`);
  return { parent: { by: 'name', name: found.name, format }, problem: null };
}

async function readPoint(source: ByteSource, warnings: string[]): Promise<ImagePoint> {
  const file = source.name;
  const raw = new Uint8Array(Math.min(HEADER_SIZE, source.size));
  await source.read(raw, 0);
  if (!isQed(raw)) throw new ImageError('not-this-format', 'not a QED image', { file, at: 0 });
  const header = Header.parse(raw, 0, file);
  checkHeader(header, source);
  if ((header.features / FEATURE.needsCheck) % 2n === 1n) {
    warnings.push('not closed cleanly by the program that wrote it; its tables may be out of date');
  }
  const { parent, problem } = await readParent(header, source, warnings);
  const { size, clusterSize: blockSize, firstAt } = header;
  const first = new Uint8Array(Math.min(firstBytes(header), 4096));
  await source.read(first, firstAt);
  const id = `qed:${file}` as LayerId;
  const none = parent === null ? ZERO : ABSENT;
  const blocks = twoLevelBlocks({
    source,
    littleEndian: true,
    size,
    blockSize,
    firstAt,
    perTable: perTable(header),
    alignment: blockSize,
    none,
    // 1 is a cluster of zeros.
    special: (high, low) => (high !== 0 || low > 1 ? null : low === 1 ? ZERO : none),
  });
  const digest = createHash('sha256').update(raw).update(first).update(String(source.size)).digest('hex');
  const layer = problem === null ? blockLayer({ id, source, size, blockSize, blocks }) : null;
  return {
    id,
    parent,
    set: null,
    time: null,
    type: parent === null ? 'full' : 'incremental',
    disks: [{ name: 'disk0', size, sectorSize: SECTOR, stored: source.size, layer }],
    identity: `qed:${digest}`,
    problem,
  };
}

/** Reads QED images, with a backing file or without. */
export const qed: Adapter = {
  name: 'qed',
  title: 'QEMU enhanced disk',
  extensions: ['.qed'],
  supports: { differencing: true, encryption: false, compression: false, write: false },
  probe: head => (isQed(head) ? 'certain' : 'no'),
  async open(name, store): Promise<Image> {
    const source = await store.open(name);
    try {
      const warnings: string[] = [];
      const point = await readPoint(source, warnings);
      return {
        adapter: 'qed',
        name,
        encrypted: false,
        points: [point],
        warnings,
        [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
      };
    } catch (error) {
      await source[Symbol.asyncDispose]();
      throw error;
    }
  },
};

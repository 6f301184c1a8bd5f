import { createHash } from 'node:crypto';
import { nameInStore } from '../../src/base/backing.ts';
import { ABSENT, blockLayer, PACKED, ZERO } from '../../src/base/block-layer.ts';
import type {
  Adapter,
  ByteSource,
  Bytes,
  Image,
  ImagePoint,
  Layer,
  LayerId,
  ParentRef,
} from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { roundUp } from '../../src/base/range.ts';
import { twoLevelBlocks } from '../../src/base/two-level.ts';
import { HEADER_SIZE, Header, type HeaderFields, isQcow1 } from './structs.ts';
import { unpackCluster } from './unpack.ts';

/** As in QEMU: clusters of 512 bytes to 64 KiB, tables of 512 bytes to 64 KiB. */
const CLUSTER_BITS = { least: 9, most: 16 };
const TABLE_BITS = { least: 6, most: 13 };
const LONGEST_NAME = 1023;

const firstBytes = (header: HeaderFields): Bytes =>
  Math.ceil(header.size / 2 ** (header.clusterBits + header.tableBits)) * 8;

function checkHeader(header: HeaderFields, source: ByteSource): void {
  const refuse = (fault: 'unsupported' | 'corrupt', message: string, field: keyof HeaderFields): never => {
    throw new ImageError(fault, message, { file: source.name, at: Header.offsetOf(field), field });
  };
  const { clusterBits, tableBits, encryption, size, firstAt } = header;
  if (clusterBits < CLUSTER_BITS.least || clusterBits > CLUSTER_BITS.most) {
    refuse('unsupported', `clusters of 2^${clusterBits} bytes are not known`, 'clusterBits');
  }
  if (tableBits < TABLE_BITS.least || tableBits > TABLE_BITS.most) {
    refuse('unsupported', `tables of 2^${tableBits} clusters are not known`, 'tableBits');
  }
  if (encryption > 1) refuse('unsupported', `encryption ${encryption} is not known`, 'encryption');
  if (size === 0) refuse('corrupt', 'the disk has no bytes', 'size');
  if (firstAt < HEADER_SIZE || firstAt + firstBytes(header) > source.size) {
    refuse('corrupt', `the first table at ${firstAt} does not fit into the file`, 'firstAt');
  }
  if (header.backingAt !== 0 && header.backingLength > LONGEST_NAME) {
    refuse('corrupt', `a backing file name of ${header.backingLength} bytes is too long`, 'backingLength');
  }
  if (header.backingAt !== 0 && header.backingAt + header.backingLength > source.size) {
    refuse('corrupt', 'the name of the backing file lies beyond the end of the file', 'backingAt');
  }
}

interface FoundParent {
  readonly parent: ParentRef | null;
  readonly problem: ImageError | null;
}

/** The format of the backing file is not written down: its content decides. */
async function readParent(header: HeaderFields, source: ByteSource, warnings: string[]): Promise<FoundParent> {
  if (header.backingAt === 0 || header.backingLength === 0) return { parent: null, problem: null };
  const raw = new Uint8Array(header.backingLength);
  await source.read(raw, header.backingAt);
  const written = Buffer.from(raw).toString('utf8');
  const found = nameInStore(source.name, written);
  const fail = (fault: 'unsupported' | 'broken-chain', why: string): FoundParent => ({
    parent: { by: 'name', name: written, format: null },
    problem: new ImageError(fault, `the backing file ${JSON.stringify(written)} ${why}`, {
      file: source.name,
      at: header.backingAt,
      field: 'backing file',
    }),
  });
  if (found.kind === 'refused') return fail('unsupported', found.why);
  if (found.name === source.name) return fail('broken-chain', 'would be this image itself');
  if (found.warning !== null) warnings.push(`the backing file ${found.warning}`);
  return { parent: { by: 'name', name: found.name, format: null }, problem: null };
}

function layerOf(id: LayerId, source: ByteSource, header: HeaderFields, hasParent: boolean): Layer {
  const { clusterBits, tableBits, firstAt } = header;
  const size = roundUp(header.size, 512);
  const blockSize = 2 ** clusterBits;
  const none = hasParent ? ABSENT : ZERO;
  const blocks = twoLevelBlocks({
    source,
    littleEndian: false,
    size,
    blockSize,
    firstAt,
    perTable: 2 ** tableBits,
    alignment: 1,
    none,
    special: (high, low) => (high >= 0x8000_0000 ? PACKED : high === 0 && low === 0 ? none : null),
  });
  const packed = { source, blocks, clusterBits, size: header.size };
  return blockLayer({ id, source, size, blockSize, blocks, unpack: (unit, into) => unpackCluster(packed, unit, into) });
}

async function readPoint(source: ByteSource, warnings: string[]): Promise<ImagePoint> {
  const file = source.name;
  const raw = new Uint8Array(Math.min(HEADER_SIZE, source.size));
  await source.read(raw, 0);
  if (!isQcow1(raw)) throw new ImageError('not-this-format', 'not a QCOW image of version 1', { file, at: 0 });
  const header = Header.parse(raw, 0, file);
  checkHeader(header, source);
  const size = roundUp(header.size, 512);
  if (size !== header.size) warnings.push(`the disk's size of ${header.size} bytes is filled up to whole sectors`);
  const { parent, problem: broken } = await readParent(header, source, warnings);
  const first = new Uint8Array(Math.min(firstBytes(header), 4096));
  await source.read(first, header.firstAt);
  const where = { file, at: Header.offsetOf('encryption'), field: 'encryption' };
  const problem =
    header.encryption === 1 ? new ImageError('unsupported', 'encrypted QCOW images cannot be read', where) : broken;
  const id = `qcow1:${file}` as LayerId;
  const digest = createHash('sha256').update(raw).update(first).update(String(source.size)).digest('hex');
  const layer = problem === null ? layerOf(id, source, header, parent !== null) : null;
  return {
    id,
    parent,
    set: null,
    time: null,
    type: parent === null ? 'full' : 'incremental',
    disks: [{ name: 'disk0', size, sectorSize: 512, stored: source.size, layer }],
    identity: `qcow1:${digest}`,
    problem,
  };
}

/** Reads QCOW version 1: plain and compressed clusters, with a backing file or without. */
export const qcow1: Adapter = {
  name: 'qcow1',
  title: 'QEMU copy-on-write, version 1',
  extensions: ['.qcow'],
  supports: { differencing: true, encryption: false, compression: true, write: false },
  probe: head => (isQcow1(head) ? 'certain' : 'no'),
  async open(name, store): Promise<Image> {
    const source = await store.open(name);
    try {
      const warnings: string[] = [];
      const point = await readPoint(source, warnings);
      return {
        adapter: 'qcow1',
        name,
        encrypted: point.problem?.where.field === 'encryption',
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

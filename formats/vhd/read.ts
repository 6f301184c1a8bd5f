import { createHash } from 'node:crypto';
import type {
  Adapter,
  ByteSource,
  Confidence,
  Image,
  ImagePoint,
  Layer,
  LayerId,
  ParentRef,
  Store,
} from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { isPowerOfTwo } from '../../src/base/range.ts';
import { viewOf } from '../../src/base/struct.ts';
import {
  DISK_TYPE,
  DynamicHeader,
  FOOTER_SIZE,
  FORMAT_VERSION,
  Footer,
  footerSum,
  HEADER_SIZE,
  type HeaderFields,
  hasCookie,
  headerSum,
  NOWHERE,
  parseAt,
  SECTOR,
  timeOf,
  uuidText,
} from '../../src/base/vhd.ts';
import { backupOf } from '../../src/base/xen-orchestra.ts';
import { checkFooter, type FoundFooter, findFooter } from './footer.ts';
import { type BlockMap, bitmapLength, blockLayer, fixedLayer } from './layer.ts';
import { parentOf } from './parent.ts';

/** Largest block; the usual ones are 512 KiB and 2 MiB. */
const MAX_BLOCK = 2 ** 28;

interface Opened {
  readonly layer: Layer;
  readonly parent: ParentRef | null;
  readonly stored: number;
  /** Metadata that stands for the content in the image's identity. */
  readonly witness: readonly Uint8Array[];
}

function openFixed(id: LayerId, source: ByteSource, footer: FoundFooter): Opened {
  const size = footer.fields.currentSize;
  if (size > footer.at) {
    throw new ImageError('corrupt', `the file ends early: the disk has ${size} bytes, ${footer.at} are there`, {
      file: source.name,
      at: footer.at + Footer.offsetOf('currentSize'),
      field: 'currentSize',
    });
  }
  return { layer: fixedLayer(id, source, size), parent: null, stored: size, witness: [] };
}

function checkHeader(header: HeaderFields, at: number, size: number, source: ByteSource): void {
  const refuse = (fault: 'unsupported' | 'corrupt', message: string, field: keyof HeaderFields): never => {
    throw new ImageError(fault, message, { file: source.name, at: at + DynamicHeader.offsetOf(field), field });
  };
  if (header.headerVersion !== FORMAT_VERSION) {
    refuse(
      'unsupported',
      `dynamic header version 0x${header.headerVersion.toString(16)} is not known`,
      'headerVersion',
    );
  }
  if (!isPowerOfTwo(header.blockSize) || header.blockSize < SECTOR || header.blockSize > MAX_BLOCK) {
    refuse('unsupported', `a block size of ${header.blockSize} bytes is not known`, 'blockSize');
  }
  const entries = header.maxTableEntries;
  if (header.tableOffset % SECTOR !== 0 || header.tableOffset < FOOTER_SIZE) {
    refuse('corrupt', `the block table cannot lie at ${header.tableOffset}`, 'tableOffset');
  }
  if (header.tableOffset + entries * 4 > source.size) {
    refuse('corrupt', `a block table of ${entries} entries does not fit into the file`, 'maxTableEntries');
  }
  if (entries * header.blockSize < size) {
    refuse(
      'corrupt',
      `${entries} blocks of ${header.blockSize} bytes are too few for ${size} bytes`,
      'maxTableEntries',
    );
  }
}

async function openBlocks(id: LayerId, source: ByteSource, footer: FoundFooter, warnings: string[]): Promise<Opened> {
  const { fields } = footer;
  const where = { file: source.name, at: footer.at + Footer.offsetOf('dataOffset'), field: 'dataOffset' };
  if (fields.dataOffset === NOWHERE || fields.dataOffset + BigInt(HEADER_SIZE) > BigInt(source.size)) {
    throw new ImageError('corrupt', 'the dynamic header lies beyond the end of the file', where);
  }
  const at = Number(fields.dataOffset);
  const raw = new Uint8Array(HEADER_SIZE);
  await source.read(raw, at);
  const header = parseAt(DynamicHeader, raw, at, source.name);
  checkHeader(header, at, fields.currentSize, source);
  if (headerSum(raw) !== header.checksum) warnings.push('the checksum of the dynamic header does not hold');

  const blocks = Math.ceil(fields.currentSize / header.blockSize);
  const differencing = fields.diskType === DISK_TYPE.differencing;
  const map: BlockMap = {
    size: fields.currentSize,
    blockSize: header.blockSize,
    tableAt: header.tableOffset,
    tableLength: blocks * 4,
    differencing,
  };
  const tableStart = new Uint8Array(Math.min(blocks * 4, 4096));
  await source.read(tableStart, header.tableOffset);
  const most = blocks * (header.blockSize + bitmapLength(header.blockSize));
  return {
    layer: blockLayer(id, source, map),
    parent: differencing ? await parentOf(source, header, warnings) : null,
    stored: Math.max(0, Math.min(most, source.size - FOOTER_SIZE - header.tableOffset - map.tableLength)),
    witness: [raw, tableStart],
  };
}

async function openSource(name: string, source: ByteSource, store: Store): Promise<Image> {
  const warnings: string[] = [];
  const footer = await findFooter(source, warnings);
  checkFooter(footer, name, warnings);
  const uuid = uuidText(footer.fields.uniqueId);
  const id = `vhd:${uuid}` as LayerId;
  const fixed = footer.fields.diskType === DISK_TYPE.fixed;
  const { layer, parent, stored, witness } = fixed
    ? openFixed(id, source, footer)
    : await openBlocks(id, source, footer, warnings);
  const digest = createHash('sha256').update(footer.raw).update(String(source.size));
  for (const part of witness) digest.update(part);
  const backup = await backupOf(store, name);
  const point: ImagePoint = {
    id,
    parent,
    set: backup?.set ?? null,
    time: backup?.time ?? timeOf(footer.fields.timeStamp),
    type: parent === null ? 'full' : 'incremental',
    disks: [{ name: 'disk0', size: layer.size, sectorSize: SECTOR, stored, layer }],
    identity: `vhd:${uuid}:${digest.digest('hex').slice(0, 32)}`,
    problem: null,
  };
  return {
    adapter: 'vhd',
    name,
    encrypted: false,
    points: [point],
    warnings,
    [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
  };
}

/**
 * A dynamic disk has the footer's cookie at the start, every disk has it at the end. A disk image that merely ends with
 * the footer of another file is told apart by the checksum only, so without it the answer is 'maybe'.
 */
function probe(head: Uint8Array, tail: Uint8Array): Confidence {
  if (hasCookie(head, 0)) return 'certain';
  const at = tail.length - FOOTER_SIZE;
  if (hasCookie(tail, at)) {
    const raw = tail.subarray(at);
    return footerSum(raw) === viewOf(raw).getUint32(Footer.offsetOf('checksum')) ? 'certain' : 'maybe';
  }
  return hasCookie(tail, at + 1) ? 'maybe' : 'no';
}

/** Reads fixed, dynamic and differencing VHD files. */
export const vhd: Adapter = {
  name: 'vhd',
  title: 'Virtual Hard Disk (Virtual PC, Hyper-V)',
  extensions: ['.vhd', '.avhd'],
  supports: { differencing: true, encryption: false, compression: false, write: false },
  probe,
  async open(name, store) {
    const source = await store.open(name);
    try {
      return await openSource(name, source, store);
    } catch (error) {
      await source[Symbol.asyncDispose]();
      throw error;
    }
  },
};

import { createHash } from 'node:crypto';
import type { Adapter, ByteSource, Image, ImagePoint } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { type Area, checkSignature, type FoundHeader, findHeader, findRegions, type Regions } from './header.ts';
import { blockLayer } from './layer.ts';
import { pendingEntries } from './log.ts';
import { type DiskFacts, readMetadata } from './metadata.ts';
import { idOf, parentOf } from './parent.ts';
import { replayed } from './replay.ts';
import { hasText, SIGNATURE } from './structs.ts';
import { type BlockMap, tableLength } from './table.ts';
import { verifyImage } from './verify.ts';

/** So much of the block table stands for the content in the image's identity. */
const WITNESS = 4096;

function mapOf(source: ByteSource, header: FoundHeader, { bat, metadata }: Regions, facts: DiskFacts): BlockMap {
  const { logOffset, logLength } = header.fields;
  const log: Area = { at: logOffset, length: logLength };
  const map: BlockMap = {
    size: facts.size,
    blockSize: facts.blockSize,
    sectorSize: facts.sectorSize,
    tableAt: bat.at,
    differencing: facts.locator !== null,
    reserved: [bat, metadata, log],
  };
  const needed = tableLength(map);
  if (needed > bat.length) {
    const message = `a block table of ${needed} bytes does not fit into its region of ${bat.length}`;
    throw new ImageError('corrupt', message, { file: source.name, at: bat.at });
  }
  return map;
}

async function identityOf(source: ByteSource, header: FoundHeader, map: BlockMap, facts: DiskFacts): Promise<string> {
  const { dataWriteGuid } = header.fields;
  const start = new Uint8Array(Math.min(WITNESS, tableLength(map)));
  await source.read(start, map.tableAt);
  const digest = createHash('sha256').update(dataWriteGuid).update(String(source.size)).update(start);
  for (const part of facts.witness) digest.update(part);
  return `vhdx:${dataWriteGuid}:${digest.digest('hex').slice(0, 32)}`;
}

async function openSource(name: string, file: ByteSource): Promise<Image> {
  const warnings: string[] = [];
  await checkSignature(file);
  const header = await findHeader(file, warnings);
  const source = replayed(file, await pendingEntries(file, header, warnings));
  const regions = await findRegions(source, warnings);
  const facts = await readMetadata(source, regions.metadata);
  const map = mapOf(source, header, regions, facts);
  const id = idOf(header.fields.dataWriteGuid);
  const parent = facts.locator === null ? null : await parentOf(source, facts.locator, warnings);
  const layer = blockLayer(id, source, map);
  const used = map.reserved.reduce((sum, { length }) => sum + length, 2 ** 20);
  const { size, sectorSize } = facts;
  const point: ImagePoint = {
    id,
    parent,
    set: null,
    time: null,
    type: parent === null ? 'full' : 'incremental',
    disks: [
      {
        name: 'disk0',
        size,
        sectorSize,
        stored: Math.max(0, Math.min(size, source.size - used)),
        layer,
      },
    ],
    identity: await identityOf(source, header, map, facts),
    problem: null,
  };
  return {
    adapter: 'vhdx',
    name,
    encrypted: false,
    points: [point],
    warnings,
    verify: run => verifyImage({ file, source, map, layer }, run),
    [Symbol.asyncDispose]: () => file[Symbol.asyncDispose](),
  };
}

/** Reads fixed, dynamic and differencing VHDX files; a log that was left behind is replayed in memory. */
export const vhdx: Adapter = {
  name: 'vhdx',
  title: 'Virtual Hard Disk v2 (Hyper-V)',
  extensions: ['.vhdx', '.avhdx'],
  supports: { differencing: true, encryption: false, compression: false, write: false },
  probe: head => (hasText(head, SIGNATURE) ? 'certain' : 'no'),
  async open(name, store) {
    const file = await store.open(name);
    try {
      return await openSource(name, file);
    } catch (error) {
      await file[Symbol.asyncDispose]();
      throw error;
    }
  },
};

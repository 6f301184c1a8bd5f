import { createHash } from 'node:crypto';
import type { Adapter, Confidence, Image, ImagePoint, LayerId, Store, VerifyRun } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { roundUp } from '../../src/base/range.ts';
import { DISK_TYPE, DynamicHeader, Footer, SECTOR, uuidText } from '../../src/base/vhd.ts';
import { backupOf } from '../../src/base/xen-orchestra.ts';
import { type Directory, openDirectory } from './directory.ts';
import { type BlockLayer, directoryLayer } from './layer.ts';
import { ALIAS, parentOf, targetOf, timeOf } from './names.ts';
import { parseFooter, parseHeader } from './structs.ts';

const EPOCH = Date.UTC(2000, 0, 1);

/** Files of a directory other than its footer. They are shown as the directory, not by themselves. */
const MEMBER = /\.vhd\/(?:header|bat|chunk-filters\.json|parentLocatorEntry\d|blocks\/\d+\/\d+)$/;
const FOOTER = /\.vhd\/footer$/;
/** Directories in a folder `data` are shown by their aliases. */
const BEHIND_ALIAS = /(?:^|\/)data\/[^/]+\.vhd\/footer$/;

async function checkBlocks(
  directory: Directory,
  { layer, blocks, has, memberOf, fileLength }: BlockLayer,
  run: VerifyRun,
) {
  const into = new Uint8Array(layer.blockSize);
  const start = into.subarray(0, SECTOR);
  let checked = 0;
  for (let block = 0; block < blocks; block++) {
    run.signal.throwIfAborted();
    if (!has(block)) continue;
    try {
      if (run.level === 3) await layer.unpack(block, into);
      else if (directory.plain) await directory.readPart(memberOf(block), start, 0, fileLength);
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      const file = error.where.file ?? directory.name;
      run.found({
        fault: error.fault,
        message: error.message,
        file,
        offset: error.where.at ?? 0,
        disk: 'disk0',
        block,
      });
    }
    checked++;
    run.progress(Math.min(layer.size, (block + 1) * layer.blockSize), layer.size);
  }
  const isWhole = run.level === 3;
  return { checked, bytes: isWhole ? checked * layer.blockSize : checked * SECTOR, whole: isWhole };
}

async function openImage(name: string, target: string, store: Store): Promise<Image> {
  const directory = await openDirectory(store, target);
  const rawFooter = await directory.read('footer', Footer.size);
  const footer = parseFooter(rawFooter, directory.fileName('footer'));
  const rawHeader = await directory.read('header', DynamicHeader.size);
  const header = parseHeader(rawHeader, footer.currentSize, directory.fileName('header'));
  // A bit per block, in as many bytes as there are blocks; only an eighth of them is used.
  const used = Math.ceil(footer.currentSize / header.blockSize / 8);
  const present = await directory.read('bat', roundUp(header.maxTableEntries, SECTOR), used);
  const uuid = uuidText(footer.uniqueId);
  const id = `vhd:${uuid}` as LayerId;
  const differencing = footer.diskType === DISK_TYPE.differencing;
  const spec = { id, size: footer.currentSize, blockSize: header.blockSize, present, differencing };
  const opened = directoryLayer(directory, spec);
  let stored = 0;
  for (let block = 0; block < opened.blocks; block++) if (opened.has(block)) stored += header.blockSize;
  const made = footer.timeStamp === 0 ? null : new Date(EPOCH + footer.timeStamp * 1000);
  const digest = createHash('sha256').update(rawFooter).update(rawHeader).update(present).digest('hex');
  const point: ImagePoint = {
    id,
    parent: differencing ? await parentOf(directory, header) : null,
    set: (await backupOf(store, name))?.set ?? null,
    time: timeOf(name) ?? made,
    type: differencing ? 'incremental' : 'full',
    disks: [{ name: 'disk0', size: footer.currentSize, sectorSize: SECTOR, stored, layer: opened.layer }],
    identity: `xo:${uuid}:${digest}`,
    problem: null,
  };
  return {
    adapter: 'xo',
    name,
    encrypted: false,
    points: [point],
    warnings: [],
    verify: run => checkBlocks(directory, opened, run),
    async [Symbol.asyncDispose]() {},
  };
}

const part = (name: string): Image => ({
  adapter: 'xo',
  name,
  encrypted: false,
  points: [],
  warnings: [],
  async [Symbol.asyncDispose]() {},
});

/** Files of a directory are known by their names: filters change what is in them. */
function probe(_head: Uint8Array, _tail: Uint8Array, name: string): Confidence {
  return name.endsWith(ALIAS) || MEMBER.test(name) || FOOTER.test(name) ? 'certain' : 'no';
}

/** Descriptions and caches of a remote, beside its disks. */
const BESIDE = /(?:^|\/)(?:xo-vm-backups\/.+\.json(?:\.gz)?|\d{8}T\d{6}Z\.json)$/;

/** Reads the VHD directories of Xen Orchestra, by their aliases or by their footers. */
export const xo: Adapter = {
  name: 'xo',
  title: 'Xen Orchestra VHD directory',
  extensions: [ALIAS],
  supports: { differencing: true, encryption: false, compression: true, write: false },
  probe,
  owns: name => MEMBER.test(name) || BESIDE.test(name),
  // A file for every block of a disk.
  skips: folder => /\.vhd\/blocks$/.test(folder),
  async open(name, store) {
    if (MEMBER.test(name) || BEHIND_ALIAS.test(name)) return part(name);
    const target = name.endsWith(ALIAS) ? await targetOf(store, name) : name.slice(0, name.lastIndexOf('/'));
    return openImage(name, target, store);
  },
};

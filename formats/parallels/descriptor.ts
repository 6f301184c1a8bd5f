/** `DiskDescriptor.xml`: what a bundle's files are to each other. QEMU docs/interop/prl-xml.txt. */
import type { Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { type Element, parseXml } from '../../src/base/xml.ts';
import { SECTOR } from './structs.ts';

const ROOT = 'Parallels_disk_image';
const NULL_GUID = '{00000000-0000-0000-0000-000000000000}';
/** The state that the machine uses, where the document does not name it. */
const USUAL_TOP = '{5fbaabe3-6958-40ff-92a7-860e329aab41}';
const GUID = /^\{[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\}$/;
const MOST_FILES = 4096;

export interface StoredImage {
  readonly guid: string;
  readonly type: 'expanding' | 'plain';
  /** A name in the bundle's folder. */
  readonly file: string;
}

/** A stretch of the disk with files of its own. */
export interface Stretch {
  readonly from: Bytes;
  readonly to: Bytes;
  readonly images: readonly StoredImage[];
}

export interface Shot {
  readonly guid: string;
  /** null: complete by itself. */
  readonly parent: string | null;
}

export interface Descriptor {
  readonly size: Bytes;
  readonly stretches: readonly Stretch[];
  /** In the document's order. */
  readonly shots: readonly Shot[];
  readonly top: string;
  readonly encrypted: boolean;
}

/** Whether a file begins as a descriptor does. */
export const looksLikeDescriptor = (head: Uint8Array): boolean =>
  /^\ufeff?\s*(?:<\?xml[^>]*>\s*)?(?:<!--[^>]*-->\s*)*<Parallels_disk_image[\s>]/.test(
    Buffer.from(head.subarray(0, 1024)).toString('utf8'),
  );

/** Last part of a path of any system: files are looked for in the bundle only. */
const baseName = (path: string): string => path.slice(Math.max(path.lastIndexOf('/'), path.lastIndexOf('\\')) + 1);

interface Reader {
  fail(message: string, field: string, fault?: 'corrupt' | 'unsupported'): never;
  one(parent: Element, name: string): Element;
  maybe(parent: Element, name: string): Element | null;
  all(parent: Element, name: string): readonly Element[];
  number(parent: Element, name: string): number;
  guid(parent: Element, name: string): string;
}

function readerOf(file: string): Reader {
  const fail = (message: string, field: string, fault: 'corrupt' | 'unsupported' = 'corrupt'): never => {
    throw new ImageError(fault, message, { file, field });
  };
  const all = (parent: Element, name: string): readonly Element[] => parent.children.filter(c => c.name === name);
  const maybe = (parent: Element, name: string): Element | null => {
    const found = all(parent, name);
    return found.length > 1 ? fail(`<${parent.name}> has ${found.length} times <${name}>`, name) : (found[0] ?? null);
  };
  const one = (parent: Element, name: string): Element =>
    maybe(parent, name) ?? fail(`<${parent.name}> has no <${name}>`, name);
  return {
    fail,
    all,
    maybe,
    one,
    number(parent, name) {
      const { text } = one(parent, name);
      return /^\d{1,15}$/.test(text) ? Number(text) : fail(`<${name}> is no number: ${JSON.stringify(text)}`, name);
    },
    guid(parent, name) {
      const guid = one(parent, name).text.toLowerCase();
      return GUID.test(guid) ? guid : fail(`<${name}> is no GUID: ${JSON.stringify(guid)}`, name);
    },
  };
}

function readImages(storage: Element, read: Reader): readonly StoredImage[] {
  const images = read.all(storage, 'Image').map((image): StoredImage => {
    const type = read.one(image, 'Type').text;
    const path = read.one(image, 'File').text;
    const file = baseName(path);
    if (file === '' || file === '.' || file === '..' || file.includes('\0')) {
      read.fail(`${JSON.stringify(path)} is no file name`, 'File');
    }
    if (type !== 'Compressed' && type !== 'Plain')
      read.fail(`image type ${JSON.stringify(type)} is not known`, 'Type', 'unsupported');
    return { guid: read.guid(image, 'GUID'), type: type === 'Plain' ? 'plain' : 'expanding', file };
  });
  const guids = new Set(images.map(image => image.guid));
  if (guids.size < images.length) read.fail('two images of one snapshot for the same stretch of the disk', 'GUID');
  return images;
}

/** The stretches in order; they have to cover the disk without gaps. */
function readStretches(root: Element, size: Bytes, read: Reader): readonly Stretch[] {
  const storages = read.all(read.one(root, 'StorageData'), 'Storage');
  const stretches = storages
    .map(storage => ({
      from: read.number(storage, 'Start') * SECTOR,
      to: read.number(storage, 'End') * SECTOR,
      images: readImages(storage, read),
    }))
    .sort((a, b) => a.from - b.from);
  let end = 0;
  for (const { from, to } of stretches) {
    if (from !== end || to <= from)
      read.fail(`the disk's parts do not join: one ends at ${end}, the next is ${from} to ${to}`, 'Storage');
    end = to;
  }
  if (end !== size) read.fail(`the disk's parts end at ${end}, the disk at ${size}`, 'Storage');
  const files = stretches.flatMap(stretch => stretch.images);
  if (files.length > MOST_FILES)
    read.fail(`${files.length} files are more than ${MOST_FILES}`, 'Storage', 'unsupported');
  return stretches;
}

function readShots(root: Element, read: Reader): { readonly shots: readonly Shot[]; readonly top: string } {
  const snapshots = read.maybe(root, 'Snapshots');
  const top =
    snapshots === null || read.maybe(snapshots, 'TopGUID') === null ? USUAL_TOP : read.guid(snapshots, 'TopGUID');
  const shots = (snapshots === null ? [] : read.all(snapshots, 'Shot')).map((shot): Shot => {
    const parent = read.guid(shot, 'ParentGUID');
    return { guid: read.guid(shot, 'GUID'), parent: parent === NULL_GUID ? null : parent };
  });
  if (new Set(shots.map(shot => shot.guid)).size < shots.length) read.fail('two snapshots have the same GUID', 'GUID');
  if (shots.length > MOST_FILES)
    read.fail(`${shots.length} snapshots are more than ${MOST_FILES}`, 'Shot', 'unsupported');
  if (shots.length === 0) return { shots: [{ guid: top, parent: null }], top };
  if (!shots.some(shot => shot.guid === top)) read.fail(`the state in use, ${top}, is no snapshot`, 'TopGUID');
  return { shots, top };
}

/** Refuses by name what this reader does not know; 'corrupt' where the document contradicts itself. */
export function parseDescriptor(raw: Uint8Array, file: string): Descriptor {
  const root = parseXml(raw, file);
  const read = readerOf(file);
  if (root.name !== ROOT) throw new ImageError('not-this-format', `not a <${ROOT}> document`, { file });
  const parameters = read.one(root, 'Disk_Parameters');
  const size = read.number(parameters, 'Disk_size') * SECTOR;
  if (size === 0 || !Number.isSafeInteger(size)) read.fail(`a disk of ${size} bytes cannot be`, 'Disk_size');
  if (read.maybe(parameters, 'Padding') !== null && read.number(parameters, 'Padding') !== 0) {
    read.fail('padding is not known', 'Padding', 'unsupported');
  }
  if (read.maybe(parameters, 'LogicSectorSize') !== null && read.number(parameters, 'LogicSectorSize') !== SECTOR) {
    read.fail('sectors other than 512 bytes are not known', 'LogicSectorSize', 'unsupported');
  }
  const encryption = read.maybe(parameters, 'Encryption');
  const engine = encryption === null ? null : read.maybe(encryption, 'Engine');
  const encrypted = engine !== null && engine.text !== '' && engine.text !== NULL_GUID;
  return { size, stretches: readStretches(root, size, read), ...readShots(root, read), encrypted };
}

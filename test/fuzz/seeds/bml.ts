import { hash } from 'node:crypto';
import { consolidateBml } from '../../../formats/bml/consolidate.ts';
import { bml } from '../../../formats/bml/index.ts';
import { layerOf, openLayer, readAll, type Write, writeLayer } from '../../../formats/bml/kit.ts';
import { openLuksImage } from '../../../formats/bml/luks-image.ts';
import { forgetPlace } from '../../../formats/bml/node.ts';
import { crc32c } from '../../../src/base/checksum.ts';
import type { Store } from '../../../src/base/contracts.ts';
import { viewOf } from '../../../src/base/struct.ts';
import { memoryStore } from '../../../src/stores/memory.ts';
import type { Random } from '../../kit/random.ts';
import type { DamagedFile, DamagedFiles } from '../damage.ts';
import { adapterTarget, type FuzzTarget, orImageError, readSome, SECRET, type Seed, seedContent } from '../target.ts';

const BLOCK = 4096;
const SIZE = 150 * BLOCK - 700;
/** Every block of the last kind is stored, so its disk is a small one of whole sectors. */
const KINDS = [
  ['plain', null, undefined, SIZE],
  ['encrypted', SECRET, 'aes-256-gcm', SIZE],
  ['LUKS sectors', SECRET, 'aes-256-xts', 30 * BLOCK + 1024],
] as const;
const [PAGE, RECORDS, HEADER] = [4096, 65_536, 48];

/** A full, an incremental on it, and both again as one consolidated file; key derivation is cheap. */
async function seeds(): Promise<readonly Seed[]> {
  const disk = seedContent(SIZE);
  const made: Seed[] = [];
  for (const [title, secret, cipher, size] of KINDS) {
    const store = memoryStore();
    const first = Array.from(
      { length: 20 },
      (_, i): Write => [0, (i * 7) % Math.floor(size / BLOCK), disk.slice(i * BLOCK, (i + 1) * BLOCK)],
    );
    const common = { size, secret, ...(cipher === undefined ? {} : { cipher }) };
    await writeLayer(store, 'a.bml', common, first);
    await using parent = await openLayer(store, 'a.bml', secret);
    const second: readonly Write[] = [
      [0, 7, disk.slice(5, 5 + BLOCK)],
      [0, 14, 'zero'],
      [0, Math.floor(size / BLOCK), new Uint8Array(size % BLOCK).fill(7)],
    ];
    await writeLayer(store, 'b.bml', { ...common, parent }, second);
    await using child = await openLayer(store, 'b.bml', secret);
    await readAll(layerOf(child));
    const files = { 'a.bml': store.bytes('a.bml'), 'b.bml': store.bytes('b.bml') };
    made.push({ title: `${title} chain`, name: 'b.bml', files });
    const signal = new AbortController().signal;
    await consolidateBml(store, { files: ['a.bml', 'b.bml'], signal, progress() {} });
    made.push({ title: `${title}, consolidated`, name: 'b.bml', files: { 'b.bml': store.bytes('b.bml') } });
  }
  return made;
}

const number = (value: number): Uint8Array => {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value, true);
  return bytes;
};

/** Only what differs: each patch makes every later read slower. */
function put(file: DamagedFile, at: number, bytes: Uint8Array): void {
  if (Buffer.compare(file.read(at, bytes.length), bytes) !== 0) file.write(at, bytes);
}

function sealPage(file: DamagedFile, at: number, length: number): void {
  const page = file.read(at, length - 4);
  if (at >= 0 && page.length === length - 4) put(file, at + length - 4, number(crc32c(page)));
}

/** Digest, where no key is needed for it, and checksum. */
function sealCommit(file: DamagedFile, at: number): void {
  const head = viewOf(file.read(at, 256));
  const length = head.getUint32(80, true);
  const disks = head.getUint16(84, true);
  if (length % PAGE !== 0 || length === 0 || length > 16 * PAGE || 256 + disks * 128 > length) return;
  const content = file.read(at, length - 36);
  if (content.length !== length - 36) return;
  content.fill(0, 208, 256);
  for (let i = 0; i < disks; i++) forgetPlace(content, 256 + i * 128 + 48);
  const merkle = hash('sha256', content.subarray(256, 256 + disks * 128), 'buffer');
  content.set(merkle, 160);
  put(file, at + 160, merkle);
  if (viewOf(file.read(74, 1)).getUint8(0) === 0) put(file, at + length - 36, hash('sha256', content, 'buffer'));
  sealPage(file, at, length);
}

function sealRecord(file: DamagedFile, at: number): void {
  const header = file.read(at, HEADER);
  if (header.length < HEADER) return;
  const view = viewOf(header);
  const length = view.getUint32(32, true) + ((view.getUint32(12, true) & 1) === 1 ? 16 : 0);
  const body = file.read(at + HEADER, Math.min(length, 2 * BLOCK));
  if (body.length === length) view.setUint32(40, crc32c(body), true);
  view.setUint32(44, 0, true);
  view.setUint32(44, crc32c(header), true);
  put(file, at + 40, header.subarray(40));
}

/** The checksums of all pages but the key slots: opening damaged ones costs as much as they say. */
function repair(files: DamagedFiles): void {
  for (const name of files.names) {
    const file = files.file(name)!;
    if (!file.isDamaged || file.size < RECORDS) continue;
    const all = file.read(RECORDS, file.size - RECORDS);
    for (let at = 0; at + 8 <= all.length; at += 64) {
      const magic = Buffer.from(all.subarray(at, at + 8)).toString('latin1');
      if (magic.startsWith('BREC')) sealRecord(file, RECORDS + at);
      else if (magic === 'BMLCOMIT') sealCommit(file, RECORDS + at);
    }
    for (const at of [0, 4096, 8192, 61_440, file.size - PAGE]) sealPage(file, at, PAGE);
  }
}

/** The first part of a LUKS image, and some of its blocks. */
async function exportSome(store: Store, name: string, numbers: Random): Promise<void> {
  await orImageError(async () => {
    await using disk = await openLuksImage(store, { file: name, time: null, disk: 'disk0' });
    await readSome(disk, numbers);
  });
}

const adapted = adapterTarget(bml, [], seeds, repair);

export const target: FuzzTarget = {
  ...adapted,
  async exercise(store, name, numbers) {
    await adapted.exercise(store, name, numbers);
    if (numbers.below(4) === 0) await exportSome(store, name, numbers);
  },
};

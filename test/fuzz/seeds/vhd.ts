import { blockVhd, uuidOf } from '../../../formats/vhd/fixtures.ts';
import { vhd } from '../../../formats/vhd/index.ts';
import { viewOf } from '../../../src/base/struct.ts';
import { DynamicHeader, Footer } from '../../../src/base/vhd.ts';
import type { DamagedFile, DamagedFiles } from '../damage.ts';
import { qemuSeeds } from '../qemu-seeds.ts';
import { adapterTarget, type Seed } from '../target.ts';

const locator = (code: string, text: string, encoding: BufferEncoding): { code: string; content: Uint8Array } => ({
  code,
  content: Buffer.from(text, encoding),
});
const child = blockVhd({
  blockSize: 4096,
  blocks: [
    { data: new Uint8Array(4096).fill(1), bits: [true, false, true] },
    null,
    { data: new Uint8Array(4096).fill(2) },
  ],
  uuid: uuidOf(2),
  parent: {
    uuid: uuidOf(1),
    name: 'a.vhd',
    locators: [
      locator('W2ru', '.\\a.vhd', 'utf16le'),
      locator('MacX', 'file:///a.vhd', 'utf8'),
      locator('W2ku', 'C:\\a.vhd', 'utf16le'),
    ],
  },
});

function sum(file: DamagedFile, at: number, struct: typeof Footer | typeof DynamicHeader, magic: string): void {
  const part = file.read(at, struct.size);
  if (part.length < struct.size || Buffer.from(part.subarray(0, 8)).toString('latin1') !== magic) return;
  const skip = struct.offsetOf('checksum');
  let total = 0;
  for (const [i, byte] of part.entries()) if (i < skip || i >= skip + 4) total += byte;
  const raw = new Uint8Array(4);
  viewOf(raw).setUint32(0, 0xffff_ffff - total);
  file.write(at + skip, raw);
}

/** Both footers and the header behind the first one. */
function repair(files: DamagedFiles): void {
  for (const name of files.names) {
    const file = files.file(name)!;
    sum(file, 0, Footer, 'conectix');
    sum(file, 512, DynamicHeader, 'cxsparse');
    if (file.size > 1024) sum(file, file.size - 512, Footer, 'conectix');
  }
}

async function seeds(): Promise<readonly Seed[]> {
  return [
    ...qemuSeeds('vhd', [
      ['-O', 'vpc', '-o', 'force_size=on'],
      ['-O', 'vpc', '-o', 'subformat=fixed,force_size=on'],
    ]),
    { title: 'differencing', name: 'b.vhd', files: { 'b.vhd': child } },
  ];
}

export const target = adapterTarget(vhd, ['qemu-img'], seeds, repair);

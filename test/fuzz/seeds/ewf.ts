import { ewfFiles, summed } from '../../../formats/ewf/fixtures.ts';
import { ewf } from '../../../formats/ewf/index.ts';
import type { DamagedFiles } from '../damage.ts';
import { adapterTarget, type Seed, seedContent } from '../target.ts';

const SECTIONS = 30;
/** Where sections of these types have the sum of their head, and how long it is. */
const HEADS: Readonly<Record<string, number>> = {
  volume: 1048,
  disk: 1048,
  data: 1048,
  table: 20,
  table2: 20,
  digest: 76,
  hash: 32,
  error2: 516,
};

/** The sums of the section descriptors, and of the heads of the sections, as far as one leads to the next. */
function repair(files: DamagedFiles): void {
  for (const name of files.names) {
    const file = files.file(name)!;
    for (let at = 13, n = 0; n < SECTIONS; n++) {
      const head = file.read(at, 76);
      if (head.length < 76) break;
      file.write(at + 72, summed(head, 72).subarray(72));
      const type = Buffer.from(head.subarray(0, 16)).toString('latin1').replace(/\0.*$/s, '');
      const sumAt = HEADS[type];
      const body = sumAt === undefined ? null : file.read(at + 76, sumAt + 4);
      if (sumAt !== undefined && body!.length === sumAt + 4)
        file.write(at + 76 + sumAt, summed(body!, sumAt).subarray(sumAt));
      const next = Number(Buffer.from(head).readBigUInt64LE(16));
      if (!(next > at) || next > file.size) break;
      at = next;
    }
  }
}

async function seeds(): Promise<readonly Seed[]> {
  const content = seedContent(262_144);
  return [
    { title: 'plain', name: 'made.E01', files: ewfFiles({ content }) },
    { title: 'compressed', name: 'made.E01', files: ewfFiles({ content, compressed: true, errors: [[3, 2]] }) },
    {
      title: 'segments',
      name: 'made.E01',
      files: ewfFiles({ content, compressed: true, perTable: 20, perSegment: 1 }),
    },
    { title: 'without copies', name: 'made.E01', files: ewfFiles({ content, sectorsPerChunk: 64, copies: false }) },
  ];
}

export const target = adapterTarget(ewf, [], seeds, repair);

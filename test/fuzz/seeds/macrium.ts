import { createHash } from 'node:crypto';
import { buildFile, bytesOf, content, type DiskSpec, type FileSpec } from '../../../formats/macrium/fixtures.ts';
import { macrium } from '../../../formats/macrium/index.ts';
import type { DamagedFiles } from '../damage.ts';
import { adapterTarget, SECRET, type Seed } from '../target.ts';

const BLOCK = 65_536;
const BLOCKS = 20;
const LIST = 12;

const disk = (blocks: ReadonlyMap<number, Uint8Array | 'zero'>): DiskSpec => ({
  format: 'mbr',
  size: 2 * 1_048_576,
  bootTrack: content(32_256, 9),
  partitions: [
    { start: 131_072, length: BLOCKS * BLOCK, blockSize: BLOCK, blockCount: BLOCKS, blocks },
    {
      start: 1_500_160,
      length: 200_192,
      blockSize: BLOCK,
      blockCount: 3,
      lcn0: 3584,
      fileSystem: 'FAT32',
      reserved: [content(3584, 4)],
      reservedLength: 3584,
      blocks: new Map([[0, content(BLOCK, 5)]]),
    },
  ],
});
const base = disk(
  new Map([
    [0, content(BLOCK, 1)],
    [3, content(BLOCK, 2, false)],
    [19, content(BLOCK, 3)],
  ]),
);
const change = disk(
  new Map<number, Uint8Array | 'zero'>([
    [3, 'zero'],
    [7, content(BLOCK, 6)],
  ]),
);

const file = (spec: FileSpec): Uint8Array => bytesOf(buildFile(spec));
const nameOf = (number: number): string => `0123456789ABCDEF-0${number}-0${number}.mrimgx`;
const history = new Map([
  [0, nameOf(0)],
  [1, nameOf(1)],
]);

/** The MD5 of every metadata block, as far as one leads to the next from the root on and from where the description lies. */
function repair(files: DamagedFiles): void {
  for (const name of files.names) {
    const whole = files.file(name)!;
    const foot = Buffer.from(whole.read(whole.size - 20, 8));
    if (foot.length < 8) continue;
    for (let at = Number(foot.readBigUInt64LE()), n = 0; n < LIST; n++) {
      const head = Buffer.from(whole.read(at, 32));
      const length = head.length < 32 ? -1 : head.readUInt32LE(8);
      if (length <= 0 || at + 32 + length > whole.size) break;
      whole.write(
        at + 12,
        createHash('md5')
          .update(whole.read(at + 32, length))
          .digest(),
      );
      if ((head[28]! & 1) === 1) break;
      at += 32 + length;
    }
  }
}

async function seeds(): Promise<readonly Seed[]> {
  const password = new TextDecoder().decode(SECRET);
  const made = [
    ['plain', { compression: 'none' }],
    ['packed', {}],
    ['encrypted', { encryption: { bits: 256, password, iterations: 1 } }],
  ] as const;
  return made.map(([title, how]) => ({
    title,
    name: nameOf(1),
    files: {
      [nameOf(0)]: file({ number: 0, disks: [base], history: new Map([[0, nameOf(0)]]), ...how }),
      [nameOf(1)]: file({ number: 1, delta: true, type: 'inc', disks: [change], history, ...how }),
    },
  }));
}

export const target = adapterTarget(macrium, [], seeds, repair);

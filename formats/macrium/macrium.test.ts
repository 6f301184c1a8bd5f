import fs from 'node:fs';
import path from 'node:path';
import { viewOf } from '../../src/base/struct.ts';
import { localWritableStore } from '../../src/stores/local.ts';
import type { Structure } from '../../test/kit/adapter-checks.ts';
import { adapterKit } from '../../test/kit/adapter-kit.ts';
import { type FileSpec, put } from './fixtures.ts';
import { macrium, macriumAdapter } from './index.ts';
import { blocks, built, fatDisk, gptDisk, historyTo, MIB, restored, simpleDisk, threeFiles } from './shapes.ts';
import { BlockHeader, Footer, LAST_BLOCK } from './structs.ts';

/** Every metadata block and the footer. The MD5 covers payloads; of the headers not every bit means something. */
function structures(file: Uint8Array): readonly Structure[] {
  const footerAt = file.length - Footer.size;
  const found: Structure[] = [{ at: footerAt, length: Footer.size, checked: true }];
  const list = (at: number): number => {
    for (let next = at; ; ) {
      const { name, length, flags } = BlockHeader.parse(file, next);
      const used = !/AUXDATA|BITMAP/.test(Buffer.from(name).toString('latin1'));
      found.push({ at: next, length: BlockHeader.size, checked: false });
      if (length > 0) found.push({ at: next + BlockHeader.size, length, checked: used });
      next += BlockHeader.size + length;
      if ((flags & LAST_BLOCK) !== 0) return next;
    }
  };
  const rootAt = Number(viewOf(file).getBigUint64(footerAt, true));
  list(rootAt);
  // The lists of disks and partitions end where the description starts.
  let first = 0;
  while (Buffer.from(file.subarray(first, first + 8)).toString('latin1') !== '$TRACK0 ') first += 4096;
  // Behind the index of an empty partition stand four bytes that no length counts.
  for (let at = first; at < rootAt; ) at = file[at] === 0x24 ? list(at) : at + 4;
  return found;
}

const made = (title: string, files: () => readonly FileSpec[], size: number, secret?: string) => ({
  title,
  needs: [],
  structures,
  ...(secret === undefined ? {} : { secret }),
  async make(folder: string) {
    const specs = files();
    const { all, names } = built(specs);
    for (const [i, file] of all.entries()) await put(file, localWritableStore(folder), names[i]!);
    fs.writeFileSync(path.join(folder, 'made.raw'), restored(specs, size));
    return { file: names.at(-1)!, raw: 'made.raw' };
  },
});

const SAMPLE = 'macrium/synthetic/5EED5EED00112233';
const AES = { bits: 256, password: 'geheim', iterations: 1 } as const;

adapterKit(macriumAdapter({ completeTables: false }), {
  images: [made('GPT disk as it is stored', () => [{ number: 0, disks: [gptDisk()], shortIndex: true }], 16 * MIB)],
});

adapterKit(macrium, {
  images: [
    { sample: `${SAMPLE}-00-00.mrimgx`, secret: 'bootmount', structures },
    { sample: `${SAMPLE}-01-01.mrimgx`, beside: [`${SAMPLE}-00-00.mrimgx`], secret: 'bootmount', structures },
    made('full of an MBR disk', () => threeFiles().slice(0, 1), 8 * MIB),
    made('two deltas, not compressed', () => threeFiles({ compression: 'none' }), 8 * MIB),
    made(
      'FAT with reserved sectors, encrypted',
      () => [{ number: 0, encryption: AES, disks: [fatDisk()] }],
      12 * MIB,
      AES.password,
    ),
    made(
      'delta with encrypted metadata',
      () => {
        const common = { encryption: AES, encryptMetadata: true };
        const full = { ...common, number: 0, disks: [simpleDisk(blocks(1, [0, 1, 2, 95]))] };
        return [
          full,
          { ...common, number: 1, delta: true, history: historyTo(1), disks: [simpleDisk(blocks(2, [1, 50]))] },
        ];
      },
      8 * MIB,
      AES.password,
    ),
  ],
});

import { expect, test } from 'vitest';
import { ImageError } from '../../src/base/errors.ts';
import { memoryStore } from '../../src/stores/memory.ts';
import { missing } from '../../test/kit/oracles.ts';
import { random } from '../../test/kit/random.ts';
import { content, stream } from './fixtures.ts';
import { virtnbdbackup } from './index.ts';

const CASES = process.env.BOOTMOUNT_LONG === '1' ? 200_000 : 3000;
const NAME = 'sda.full.data';

test.skipIf(missing(['lz4']) !== null)(
  `${CASES} damaged streams: ImageErrors only`,
  { timeout: 3_600_000 },
  async () => {
    const ranges = [
      { start: 0, data: content(9000, 1) },
      { start: 9000, data: 1000 },
      { start: 10_000, data: content(2000, 2) },
    ];
    const seeds = [
      stream({ size: 12_000, checkpoint: 'c.0', ranges }),
      stream({ size: 12_000, checkpoint: 'c.0', ranges, piece: 4096 }),
    ];
    const { below, pick } = random(13);
    for (let i = 0; i < CASES; i++) {
      const file = Buffer.from(pick(seeds));
      // Half of them where frames are, with characters that frames are made of.
      for (let n = 1 + below(3); n > 0; n--) {
        const near = pick(['meta ', 'data ', 'zero ', 'stop ', 'comp ']);
        const at = Math.max(0, file.indexOf(near)) + below(48);
        if (below(2) === 0)
          file[Math.min(at, file.length - 1)] = pick([...Buffer.from('0123456789abcdef datazerostopcomp\r\n')]);
        else file[below(file.length)] = below(256);
      }
      const cut = below(10) === 0 ? file.subarray(0, below(file.length)) : file;
      try {
        await using image = await virtnbdbackup.open(NAME, memoryStore({ [NAME]: cut }), { secrets: async () => [] });
        const { layer, size } = image.points[0]!.disks[0]!;
        const at = below(Math.max(1, Math.min(size, 20_000)));
        if (at >= size) continue;
        await layer!.load(at, size - at);
        const where = layer!.locate(at, size - at)!;
        expect(where.length).toBeGreaterThan(0);
        if (where.kind === 'packed') await layer!.unpack(where.unit, new Uint8Array(layer!.blockSize));
        if (where.kind === 'plain') await where.source.read(new Uint8Array(Math.min(where.length, 65_536)), where.at);
      } catch (error) {
        expect(error).toBeInstanceOf(ImageError);
      }
    }
  },
);

import { directoryFiles } from '../../../formats/xo/fixtures.ts';
import { xo } from '../../../formats/xo/index.ts';
import { adapterTarget, type Seed } from '../target.ts';

const BLOCK = 65_536;
const block = (n: number) => ({ data: new Uint8Array(BLOCK).fill(n) });
const spec = {
  uuid: 1,
  size: 5 * BLOCK + 512,
  blockSize: BLOCK,
  blocks: new Map([
    [0, block(1)],
    [3, block(2)],
  ]),
};
const child = {
  ...spec,
  uuid: 2,
  parent: { uuid: 1, name: '20261120T100000Z.alias.vhd' },
  blocks: new Map([[1, { ...block(3), bits: (sector: number) => sector % 3 === 0 }]]),
};
const alias = '20261120T100000Z.alias.vhd';
const later = '20261121T100000Z.alias.vhd';

async function seeds(): Promise<readonly Seed[]> {
  const made = ([null, 'none', 'gzip', 'brotli'] as const).map(filter => ({
    title: `${filter}`,
    name: alias,
    files: directoryFiles('data/a.vhd', { ...spec, filter }, [alias, './data/a.vhd']),
  }));
  const differencing = {
    ...directoryFiles('data/a.vhd', spec, [alias, './data/a.vhd']),
    ...directoryFiles('data/b.vhd', child, [later, './data/b.vhd']),
  };
  return [...made, { title: 'differencing', name: later, files: differencing }];
}

export const target = adapterTarget(xo, [], seeds);

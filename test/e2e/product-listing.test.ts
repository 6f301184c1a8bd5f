/** What `ls` and `info` say of a folder that a product wrote: machine, time, type and disks, wherever in it the user points. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { blockVhd, uuidOf } from '../../formats/vhd/fixtures.ts';
import { directoryFiles } from '../../formats/xo/fixtures.ts';
import { SAMPLES, sampleMissing, scratch } from '../kit/samples.ts';
import { runCli } from './run-cli.ts';

let root: string;
beforeAll(() => {
  root = scratch();
});
afterAll(() => fs.rmSync(root, { recursive: true, force: true }));

const put = (name: string, content: Uint8Array | string): void => {
  fs.mkdirSync(path.dirname(path.join(root, name)), { recursive: true });
  fs.writeFileSync(path.join(root, name), content);
};

/** Sets and their points, a line each. */
async function listed(what: string, cwd = root): Promise<readonly string[]> {
  const { code, stdout, stderr } = await runCli(['ls', what, '--json'], { cwd });
  expect(code, stderr).toBe(0);
  const sets = JSON.parse(stdout) as {
    set: string;
    points: { name: string; type: string; state: string; disks: { name: string; size: number }[] }[];
  }[];
  return sets.flatMap(({ set, points }) =>
    points.map(({ name, type, state, disks }) =>
      [set, name, type, state, ...disks.map(disk => `${disk.name} ${disk.size}`)].join(' | '),
    ),
  );
}

const MIB = 2 ** 20;
const PARTITION = 25_165_824;
const SAMPLE = 'partclone/generated/e4.pcl.zst';
const reason = sampleMissing(SAMPLE);

describe.skipIf(reason !== null)(`a Clonezilla image${reason === null ? '' : ` (skipped: ${reason})`}`, () => {
  const IMAGE = 'saved/2026-11-20-10-img';
  const LINE = `2026-11-20T10-00-00Z | full | ok | sda ${PARTITION + MIB}`;
  beforeAll(() => {
    const sectors = PARTITION / 512;
    put(`${IMAGE}/parts`, 'sda1\n');
    put(`${IMAGE}/disk`, 'sda\n');
    put(`${IMAGE}/Info-lshw.txt`, 'debian\n');
    put(`${IMAGE}/blkdev.list`, 'KNAME NAME SIZE TYPE\n');
    put(`${IMAGE}/sda-mbr`, Buffer.alloc(512, 0x90));
    put(`${IMAGE}/sda-pt.sf`, `label: dos\nunit: sectors\n\n/dev/sda1 : start= 2048, size= ${sectors}, type=83\n`);
    const parted = `Disk /dev/sda: ${sectors + 2048}s\nSector size (logical/physical): 512B/512B\n`;
    put(`${IMAGE}/sda-pt.parted`, parted);
    put(`${IMAGE}/sda1.ext4-ptcl-img.zst.aa`, fs.readFileSync(path.join(SAMPLES, SAMPLE)));
  });

  test('is called as its folder is, from outside, from inside, and by one of its files', async () => {
    const line = `2026-11-20-10-img | ${LINE}`;
    expect(await listed('saved')).toEqual([line]);
    expect(await listed(IMAGE)).toEqual([line]);
    const inside = path.join(root, IMAGE);
    expect(await listed('.', inside)).toEqual([line]);
    expect(await listed('parts', inside)).toEqual([line]);
  });

  test('info of the folder is that of the image, and of nothing else in it', async () => {
    const { code, stdout, stderr } = await runCli(['info', IMAGE, '--json'], { cwd: root });
    expect([code, stderr]).toEqual([0, '']);
    expect(JSON.parse(stdout)).toMatchObject([
      {
        path: `${IMAGE}/parts`,
        adapter: 'clonezilla',
        role: 'full',
        set: '2026-11-20-10-img',
        time: '2026-11-20T10:00:00.000Z',
        disks: [{ name: 'sda', size: PARTITION + MIB }],
      },
    ]);
  });
});

describe('a remote of Xen Orchestra', () => {
  const MACHINE = 'remote/xo-vm-backups/0a1b2c3d-1111-2222-3333-444455556666';
  const [FIRST, SECOND] = ['20261120T100000Z', '20261121T100000Z'];
  const disk = (vdi: string): string => `vdis/0f0f0f0f-0000-0000-0000-000000000001/${vdi}`;
  const [ROOT, DATA] = ['aaaaaaaa-0000-0000-0000-000000000001', 'bbbbbbbb-0000-0000-0000-000000000002'];
  const block = { data: new Uint8Array(2 * MIB).fill(5) };

  const describeBackup = (time: string, disks: Readonly<Record<string, string>>): void => {
    const refs = Object.keys(disks);
    const about = {
      mode: 'delta',
      vm: { name_label: 'web/01', uuid: 'x' },
      vhds: Object.fromEntries(refs.map(ref => [ref, disks[ref]])),
      vdis: Object.fromEntries(refs.map(ref => [ref, { name_label: `label of ${ref}` }])),
      vbds: { b1: { VDI: refs[0], device: 'xvda', userdevice: '0' } },
    };
    put(`${MACHINE}/${time}.json`, JSON.stringify(about));
  };

  beforeAll(() => {
    put(`${MACHINE}/${disk(ROOT)}/${FIRST}.vhd`, blockVhd({ blockSize: 2 * MIB, blocks: [block], uuid: uuidOf(1) }));
    const spec = { uuid: 2, size: 2 * MIB, blockSize: 2 * MIB, blocks: new Map([[0, block]]) };
    const alias = [`${disk(DATA)}/${FIRST}.alias.vhd`, 'data/2.vhd'] as const;
    for (const [name, content] of Object.entries(directoryFiles(`${disk(DATA)}/data/2.vhd`, spec, alias))) {
      put(`${MACHINE}/${name}`, content);
    }
    const child = { uuid: uuidOf(1), name: `${FIRST}.vhd`, locators: [] };
    const delta = { blockSize: 2 * MIB, blocks: [null], uuid: uuidOf(3), parent: child };
    put(`${MACHINE}/${disk(ROOT)}/${SECOND}.vhd`, blockVhd(delta));
    describeBackup(FIRST, { r1: `${disk(ROOT)}/${FIRST}.vhd`, r2: `${disk(DATA)}/${FIRST}.alias.vhd` });
    describeBackup(SECOND, { r1: `${disk(ROOT)}/${SECOND}.vhd`, r2: `${disk(DATA)}/${SECOND}.alias.vhd` });
    put(`${MACHINE}/cache.json.gz`, 'x');
    put('remote/metadata.json', '{}');
  });

  test('its disks are called after machine and device, and after the time of the backup', async () => {
    const expected = [
      `web-01-label of r2 | 2026-11-20T10-00-00Z | full | ok | disk0 ${2 * MIB}`,
      `web-01-xvda | 2026-11-20T10-00-00Z | full | ok | disk0 ${2 * MIB}`,
      `web-01-xvda | 2026-11-21T10-00-00Z | incremental | ok | disk0 ${2 * MIB}`,
    ];
    for (const from of ['remote', 'remote/xo-vm-backups', MACHINE]) expect(await listed(from)).toEqual(expected);
  });

  test('without a description that can be read they are called after their folders', async () => {
    for (const text of ['no json', '[]', '{"vm":{"name_label":7}}', '{"vm":null,"vhds":[]}']) {
      for (const time of [FIRST, SECOND]) put(`${MACHINE}/${time}.json`, text);
      const sets = (await listed(MACHINE)).map(line => line.split(' | ', 1)[0]);
      expect(sets).toEqual([disk(ROOT), disk(ROOT), disk(DATA)].map(name => name.replaceAll('/', '-')));
    }
  });
});

test('info of a folder without backups says so', async () => {
  put('empty/readme', 'nothing\n');
  const { code, stderr } = await runCli(['info', 'empty'], { cwd: root });
  expect([code, stderr]).toEqual([3, 'bootmount: info: no backup of a known format is in this folder (empty)\n']);
});

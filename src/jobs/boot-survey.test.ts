import { describe, expect, it } from 'vitest';
import { memoryStore } from '../stores/memory.ts';
import { type BootSurvey, guidText, surveyDisk } from './boot-survey.ts';

const EFI_SYSTEM = 'c12a7328-f81f-11d2-ba4b-00a0c93ec93b';
const BIOS_BOOT = '21686148-6449-6e6f-744e-656564454649';
const MICROSOFT_RESERVED = 'e3c9e316-0b5c-4db8-817d-f92df00215ae';
const LINUX_DATA = '0fc63daf-8483-4772-8e79-3d69d8477de4';

const survey = async (disk: Uint8Array): Promise<BootSurvey> => {
  await using file = await memoryStore({ disk }).open('disk');
  return await surveyDisk(file);
};

const rawGuid = (text: string): Uint8Array => {
  const hex = text.replaceAll('-', '');
  const at = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
  return Uint8Array.from(at, i => Number.parseInt(hex.slice(i * 2, i * 2 + 2), 16));
};

function mbrDisk(types: readonly number[], code: boolean): Uint8Array {
  const disk = new Uint8Array(64 * 1024);
  disk.set([0x55, 0xaa], 510);
  if (code) disk.set([0xeb, 0x63, 0x90]);
  for (const [i, type] of types.entries()) disk[446 + i * 16 + 4] = type;
  return disk;
}

function gptDisk(types: readonly string[], options: { code?: boolean; sector?: number; attributes?: number } = {}) {
  const { code = false, sector = 512, attributes = 0 } = options;
  const disk = mbrDisk([0xee], code);
  const view = new DataView(disk.buffer);
  disk.set(new TextEncoder().encode('EFI PART'), sector);
  view.setBigUint64(sector + 72, 2n, true);
  view.setUint32(sector + 80, 128, true);
  view.setUint32(sector + 84, 128, true);
  for (const [i, type] of types.entries()) {
    disk.set(rawGuid(type), 2 * sector + i * 128);
    disk[2 * sector + i * 128 + 48] = attributes;
  }
  return disk;
}

describe('how a machine would start a disk', () => {
  it('writes GUIDs as the specification prints them', () => {
    expect(guidText(rawGuid(EFI_SYSTEM))).toBe(EFI_SYSTEM);
  });

  it.each<[string, Uint8Array, BootSurvey]>([
    ['MBR with code', mbrDisk([0x83], true), { firmware: 'bios', sectorSize: 512, windows: false }],
    ['MBR with code, NTFS', mbrDisk([0x07], true), { firmware: 'bios', sectorSize: 512, windows: true }],
    ['MBR without code', mbrDisk([0x83], false), { firmware: null, sectorSize: 512, windows: false }],
    ['MBR with an EFI partition', mbrDisk([0xef], false), { firmware: 'uefi', sectorSize: 512, windows: false }],
    ['GPT with an ESP', gptDisk([EFI_SYSTEM]), { firmware: 'uefi', sectorSize: 512, windows: false }],
    [
      'GPT with both',
      gptDisk([EFI_SYSTEM, BIOS_BOOT], { code: true }),
      { firmware: 'bios', sectorSize: 512, windows: false },
    ],
    [
      'GPT with an ESP and code that nothing belongs to',
      gptDisk([EFI_SYSTEM, MICROSOFT_RESERVED], { code: true }),
      { firmware: 'uefi', sectorSize: 512, windows: true },
    ],
    [
      'GPT with an ESP and a legacy-bootable partition',
      gptDisk([EFI_SYSTEM, LINUX_DATA], { code: true, attributes: 4 }),
      { firmware: 'bios', sectorSize: 512, windows: false },
    ],
    ['GPT of data only', gptDisk([LINUX_DATA]), { firmware: null, sectorSize: 512, windows: false }],
    [
      'GPT on 4096-byte sectors',
      gptDisk([EFI_SYSTEM], { sector: 4096 }),
      { firmware: 'uefi', sectorSize: 4096, windows: false },
    ],
    ['zeros', new Uint8Array(64 * 1024), { firmware: null, sectorSize: 512, windows: false }],
  ])('%s', async (_name, disk, expected) => {
    expect(await survey(disk)).toEqual(expected);
  });

  it('does not trust the counts of a table', async () => {
    for (const [field, value] of [
      [80, 0xffff_ffff],
      [84, 0],
      [84, 0xffff_fff0],
      [72, 0xffff_ffff],
    ] as const) {
      const disk = gptDisk([EFI_SYSTEM]);
      new DataView(disk.buffer).setUint32(512 + field, value, true);
      expect((await survey(disk)).firmware).toBeNull();
    }
  });

  it('refuses what is smaller than a sector', async () => {
    await expect(survey(new Uint8Array(100))).rejects.toMatchObject({ fault: 'not-this-format' });
  });
});

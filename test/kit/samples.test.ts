/** Every sample of a hypervisor's disk: it has the content that is expected of it, or is refused for the reason given. */
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Disk } from '../../src/base/contracts.ts';
import { openDiskFile } from '../../src/chain/file.ts';
import { adapters } from '../../src/registry.ts';
import { localFileStore } from '../../src/stores/local.ts';
import { missing } from './oracles.ts';
import { type Expected, expectations, SAMPLES, scratch, unpackSample } from './samples.ts';
import { asStack, readWhole } from './whole.ts';

const FOLDERS = new Set(['qcow2', 'qcow1', 'vhd', 'vhdx', 'vmdk', 'vdi', 'parallels', 'raw']);
/** What the list calls an error, and which faults say so. */
const FAULTS: Readonly<Record<string, readonly string[]>> = {
  'file-missing': ['broken-chain', 'not-found'],
  'parent-missing': ['broken-chain'],
  invalid: ['corrupt', 'unsupported'],
};

const samples = expectations().filter(({ file }) => FOLDERS.has(file.split('/')[0]!));
const ofKind = (kind: string): readonly Expected[] => samples.filter(({ expect: { kind: its } }) => its === kind);
const bzip2 = missing(['bzip2']);

/** Unpacks a sample with everything that lies beside it, and opens it by its content. */
async function opened(file: string, use: (disk: Disk) => Promise<void>): Promise<void> {
  const folder = scratch();
  try {
    const beside = samples.filter(other => path.dirname(other.file) === path.dirname(file) && other.file !== file);
    // Samples of one folder belong together where they are a chain or a bundle; others are not in the way.
    for (const other of path.dirname(file).includes('qemu-samples') ? [] : beside) unpackSample(other.file, folder);
    const name = unpackSample(file, folder);
    const keys = { secrets: async () => [] };
    await using its = await openDiskFile(name, localFileStore(path.join(folder, name)), adapters, keys);
    await use(its.disk);
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

describe.skipIf(samples.length === 0)('samples', () => {
  test('there is nothing in the list that this table does not know', () => {
    expect(
      samples.map(({ expect: { kind } }) => kind).filter(kind => !['content', 'error', 'none'].includes(kind)),
    ).toEqual([]);
    expect(ofKind('content').length).toBeGreaterThan(30);
  });

  for (const { file, expect: wanted } of ofKind('content')) {
    test.skipIf(file.endsWith('.bz2') && bzip2 !== null)(file, async () => {
      const { size, sha256, nz64k } = wanted as { size: number; sha256: string | null; nz64k?: string };
      await opened(file, async disk => {
        const got = await readWhole(asStack(disk), () => {});
        expect(got.size).toBe(size);
        if (sha256 !== null && got.sha256 !== null) expect(got.sha256).toBe(sha256);
        else expect(got.nz64k).toBe(nz64k);
      });
    });
  }

  for (const { file, expect: wanted } of ofKind('error')) {
    test.skipIf(file.endsWith('.bz2') && bzip2 !== null)(`${file} is refused`, async () => {
      const { error } = wanted as { error: string };
      const reading = opened(file, async disk => void (await readWhole(asStack(disk), () => {})));
      const fault = await reading.then(
        () => 'none',
        (reason: { fault?: string }) => reason.fault,
      );
      expect(FAULTS[error]).toContain(fault);
    });
  }

  test('every file of the folders is in the list', () => {
    const listed = new Set(samples.map(({ file }) => file));
    const there = [...FOLDERS].flatMap(folder =>
      fs.readdirSync(path.join(SAMPLES, folder), { recursive: true, withFileTypes: true }).flatMap(entry => {
        const file = path.relative(SAMPLES, path.join(entry.parentPath, entry.name));
        return entry.isFile() && !/\.(md|txt|json|sh|py)$|README|LICENSE|COPYING/i.test(file) ? [file] : [];
      }),
    );
    expect(there.filter(file => !listed.has(file))).toEqual([]);
  });
});

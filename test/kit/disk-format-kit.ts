/** The conformance tests of a disk format: one call per format. */
import fs from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Adapter, Bytes, Disk, DiskFormat } from '../../src/base/contracts.ts';
import { type Run, sparseDisk } from './disks.ts';
import {
  covers,
  type FormatSubject,
  ownAdapter,
  qemuReads,
  reads,
  repeatable,
  secondReader,
  seeks,
} from './format-checks.ts';
import { missing } from './oracles.ts';
import { scratch } from './samples.ts';

const CHECKS = {
  'pieces cover': covers,
  'same bytes twice': repeatable,
  'unaligned reads': reads,
  'data and holes': seeks,
  'own adapter': ownAdapter,
  qemu: qemuReads,
  'second reader': secondReader,
} as const satisfies Record<string, (subject: FormatSubject) => Promise<void>>;

export type FormatCheckName = keyof typeof CHECKS;

export interface DiskFormatKitOptions {
  readonly adapter: Adapter | null;
  /** The format's name in QEMU's tools. */
  readonly qemu: string;
  readonly checkable: boolean;
  readonly second: {
    readonly needs: readonly string[];
    readonly digest: (file: string) => Promise<string>;
    /** Largest disk to give to it. */
    readonly limit?: Bytes;
  } | null;
  /** QEMU tells which parts of a disk in this format are holes. Taken to be so unless told. */
  readonly holes?: boolean;
  /** Largest disk that the format takes; one sector more must be refused. null: there is no limit worth a test. */
  readonly limit: Bytes | null;
  readonly skip?: readonly { readonly test: FormatCheckName; readonly reason: string }[];
}

const MIB = 1_048_576;
const GIB = 1_073_741_824;

/** Data in the first and the last bytes, across borders of blocks, and in stretches of odd length. */
function runsFor(size: Bytes): readonly Run[] {
  const runs: Run[] = [];
  let free = 0;
  const wanted = [
    [0, 512],
    [MIB - 512, 1024],
    [4 * MIB - 4096, 3 * MIB],
    [12 * MIB, 65_536],
    // Whole blocks of data right behind empty ones, whatever the block's length.
    [16 * MIB, 4 * MIB],
    [33 * MIB + 512, 512],
    [5 * GIB - 1_536, 5 * MIB],
    [size - Math.min(size, 3072), Math.min(size, 3072)],
  ] as const;
  for (const [at, length] of wanted) {
    const start = Math.max(free, at);
    const end = Math.min(size, at + length);
    if (end <= start) continue;
    runs.push({ at: start, length: end - start });
    free = end + 512;
  }
  return runs;
}

const patterned = (size: Bytes): Disk => sparseDisk(size, 1, runsFor(size));

function disks(limit: Bytes | null): readonly { readonly title: string; readonly disk: Disk }[] {
  const largest = Math.min(limit ?? 2 * 1024 * GIB, 2 * 1024 * GIB);
  return [
    { title: 'one sector', disk: patterned(512) },
    { title: 'odd number of sectors', disk: patterned(3 * MIB + 7 * 512) },
    { title: 'not whole sectors', disk: patterned(2 * MIB + 1000) },
    { title: '40 MiB', disk: patterned(40 * MIB) },
    { title: '40 MiB of zeros', disk: sparseDisk(40 * MIB, 1, []) },
    { title: `${largest} bytes, sparse`, disk: patterned(largest) },
  ];
}

/** Registers every check for every size, in the read-only and in the writable layout. */
export function diskFormatKit(format: DiskFormat, options: DiskFormatKitOptions): void {
  const { adapter, qemu, checkable, holes = true, second, limit } = options;
  const secondLimit = second?.limit ?? 64 * MIB;
  /** Why a check is left out for a disk, or null. */
  const leftOut = (name: FormatCheckName, disk: Disk): string | null => {
    const skip = options.skip?.find(each => each.test === name);
    if (skip !== undefined) return skip.reason;
    if (name === 'own adapter' && adapter === null) return 'there is no adapter for it';
    if (name === 'qemu') return missing(['qemu-img']);
    if (name !== 'second reader') return null;
    if (second === null) return 'there is no second reader for it';
    return missing(second.needs) ?? (disk.size > secondLimit ? 'the second reader would fill in the holes' : null);
  };
  describe(`disk format ${format.name}`, () => {
    let folder = '';
    beforeAll(() => {
      folder = scratch();
    });
    afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));
    for (const writable of [false, true]) {
      for (const { title, disk } of disks(limit)) {
        describe(`${writable ? 'writable' : 'read-only'}, ${title}`, () => {
          for (const [name, check] of Object.entries(CHECKS)) {
            const reason = leftOut(name as FormatCheckName, disk);
            if (reason !== null) test.skip(`${name} (${reason})`, () => {});
            else {
              const digest = second?.digest ?? null;
              test(name, () =>
                check({ format, adapter, qemu, checkable, holes, second: digest, disk, writable, folder }),
              );
            }
          }
        });
      }
    }
    if (limit === null) return;
    test('refuses one sector more than the limit, and says what takes it', () => {
      for (const writable of [false, true]) {
        const alternative = expect.stringMatching(/\b(raw|vhdx|qcow2)\b/i);
        expect(() => format.layout(patterned(limit + 512), { writable, name: 'disk0' })).toThrowError(
          expect.objectContaining({ fault: 'too-big', message: alternative }),
        );
      }
    });
  });
}

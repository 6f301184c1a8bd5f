/** What the file systems of a point's disks say that nobody needs, asked of the parser child. */
import type { Bytes, Disk } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import type { Parser } from './parser.ts';
import type { UnusedRecord, VolumesRecord } from './protocol.ts';
import { noneUnused, type UnusedBlocks } from './unused-map.ts';

export interface Unused {
  /** By disk. */
  readonly disks: readonly UnusedBlocks[];
  /** Volumes of which nothing is left out, each with its reason, one line each. */
  readonly kept: readonly string[];
}

export interface UnusedSpec {
  readonly parser: Parser;
  readonly disks: readonly { readonly name: string; readonly disk: Disk }[];
  readonly blockSize: Bytes;
}

/** Looks at the disks as they are now, whatever was asked before. Never throws for what is on them: that is kept then. */
export async function unusedOf({ parser, disks, blockSize }: UnusedSpec): Promise<Unused> {
  const all = disks.map(({ disk }) => noneUnused(disk.size, blockSize));
  const kept: string[] = [];
  const group = parser.declare(
    disks.map(({ name, disk }) => ({ name, size: disk.size, sectorSize: disk.sectorSize, open: async () => disk })),
  );
  const keptFor = (name: string, error: unknown): void => {
    if (!(error instanceof ImageError)) throw error;
    kept.push(`${name}: ${error.message}`);
  };
  try {
    const { volumes, locked, unknown, notes } = (await parser.ask({ op: 'volumes', group })) as VolumesRecord;
    kept.push(...notes, ...unknown.map(name => `${name}: what it holds is not known`));
    kept.push(...locked.map(({ name }) => `${name}: it is encrypted`));
    for (const { name } of volumes) {
      try {
        const at = { group, volume: name, path: [], stream: null, blockSize };
        const { bits } = (await parser.ask({ op: 'unused', ...at })) as UnusedRecord;
        for (const [index, its] of bits.entries()) if (its !== null) add(all[index]!.bits, its);
      } catch (error) {
        keptFor(name, error);
      }
    }
  } catch (error) {
    keptFor(disks.map(({ name }) => name).join(' '), error);
  } finally {
    parser.forget(group);
  }
  return { disks: all, kept };
}

function add(to: Uint8Array, its: Uint8Array): void {
  if (its.length !== to.length) throw new ImageError('corrupt', 'a map of another disk came from the parser');
  for (let i = 0; i < its.length; i++) to[i]! |= its[i]!;
}

/** `backup --allocated fs`: what the file systems of the source have free is left out. */
import type { Bytes } from '../base/contracts.ts';
import { Parser } from '../files/parser.ts';
import { unusedOf } from '../files/unused.ts';
import { unusedBytes } from '../files/unused-map.ts';
import { checkLeftOut, withoutUnused } from '../jobs/unused.ts';
import type { SourceDisk } from './source.ts';
import { display } from './text.ts';
import type { Context } from './verb.ts';

export interface Allocated {
  /** The same disks, on which free space reads as zeros. */
  readonly disks: readonly SourceDisk[];
  readonly free: Bytes;
  /** Volumes that are kept whole, and why. */
  readonly kept: readonly string[];
  /** Throws where something that was left out is in use by now. */
  check(): Promise<void>;
}

/** The source as it is, for `--allocated extent`. */
export const wholly = (disks: readonly SourceDisk[]): Allocated => ({
  disks,
  free: 0,
  kept: [],
  check: async () => {},
});

export async function allocatedOf(
  disks: readonly SourceDisk[],
  blockSize: Bytes,
  context: Context,
): Promise<Allocated> {
  const look = async (): ReturnType<typeof unusedOf> => {
    // Without the keys of volumes: what is encrypted is kept whole anyway.
    await using parser = new Parser();
    return await unusedOf({ parser, disks, blockSize });
  };
  const { disks: unused, kept } = await look();
  for (const line of kept) context.note(`bootmount: kept whole: ${display(line)}`);
  return {
    disks: disks.map(({ name, disk }, i) => ({ name, disk: withoutUnused(disk, unused[i]!) })),
    free: disks.reduce((sum, { disk }, i) => sum + unusedBytes(unused[i]!, disk.size), 0),
    kept,
    async check() {
      const now = await look();
      for (const [i, { name }] of disks.entries()) checkLeftOut(unused[i]!, now.disks[i]!, name);
    },
  };
}

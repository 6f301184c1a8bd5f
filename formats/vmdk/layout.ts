/** A disk as VMDK files that exist only as arithmetic: guest byte x lies at `dataAt + x`. */
import type { Bytes, DiskFormat, Extents, LayoutSpec, VirtualFile } from '../../src/base/contracts.ts';
import { constant, diskPiece, table, virtualFile, zeroPiece } from '../../src/base/pieces.ts';
import { roundUp } from '../../src/base/range.ts';
import { FLAG, NEW_LINES, SECTOR, SparseHeader } from './structs.ts';
import { DESCRIPTOR_SIZE, descriptorBytes, harmless, quotable } from './text.ts';

export const GRAIN: Bytes = 65_536;
export const PER_TABLE = 512;
export const TABLE: Bytes = PER_TABLE * 4;
/** Grains are found by sector numbers of 32 bits. */
const MOST_SECTORS = 0xffff_ffff;

/** header | descriptor | redundant directory | its tables | directory | tables | grains */
export interface SparsePlan {
  readonly size: Bytes;
  readonly grains: number;
  readonly tables: number;
  readonly redundantAt: Bytes;
  readonly redundantTablesAt: Bytes;
  readonly directoryAt: Bytes;
  readonly tablesAt: Bytes;
  readonly dataAt: Bytes;
}

/** null: the disk is too large, by a little less than 2 TiB. */
export function planFor(diskSize: Bytes): SparsePlan | null {
  const size = roundUp(diskSize, SECTOR);
  const grains = Math.ceil(size / GRAIN);
  const tables = Math.ceil(grains / PER_TABLE);
  const directory = roundUp(tables * 4, SECTOR);
  const redundantAt = SECTOR + DESCRIPTOR_SIZE;
  const redundantTablesAt = redundantAt + directory;
  const directoryAt = redundantTablesAt + tables * TABLE;
  const tablesAt = directoryAt + directory;
  const dataAt = roundUp(tablesAt + tables * TABLE, GRAIN);
  if ((dataAt + grains * GRAIN) / SECTOR > MOST_SECTORS) return null;
  return { size, grains, tables, redundantAt, redundantTablesAt, directoryAt, tablesAt, dataAt };
}

/** Header and descriptor. */
export function leadFor(plan: SparsePlan, name: string, seed: string): Uint8Array<ArrayBuffer> {
  const header = SparseHeader.build({
    magicNumber: 'KDMV',
    version: 1,
    flags: FLAG.newLineTest + FLAG.redundantTable,
    capacity: plan.size / SECTOR,
    grainSize: GRAIN / SECTOR,
    descriptorOffset: 1,
    descriptorSize: DESCRIPTOR_SIZE / SECTOR,
    numGTEsPerGT: PER_TABLE,
    rgdOffset: BigInt(plan.redundantAt / SECTOR),
    gdOffset: BigInt(plan.directoryAt / SECTOR),
    overHead: plan.dataAt / SECTOR,
    uncleanShutdown: 0,
    newLines: NEW_LINES,
    compressAlgorithm: 0,
  });
  const extent = `SPARSE "${name}"`;
  const lead = new Uint8Array(SECTOR + DESCRIPTOR_SIZE);
  lead.set(header);
  lead.set(descriptorBytes({ createType: 'monolithicSparse', extent, size: plan.size, seed }, '\0'), SECTOR);
  return lead;
}

/** Entries of a directory whose tables lie one after another. */
export const directoryEntries = (tablesAt: Bytes, tables: number) => (view: DataView, first: number, last: number) => {
  for (let i = first; i < Math.min(last, tables); i++) {
    view.setUint32((i - first) * 4, (tablesAt + i * TABLE) / SECTOR, true);
  }
};

/** Entries [first, last) of the tables: grains without data have none. */
function tableEntries(disk: Extents, plan: SparsePlan) {
  return (view: DataView, first: number, last: number): void | Promise<void> => {
    const end = Math.min(last * GRAIN, disk.size);
    const put = (from: number, to: number): void => {
      for (let i = from; i < to; i++) view.setUint32((i - first) * 4, (plan.dataAt + i * GRAIN) / SECTOR, true);
    };
    const walk = (at: Bytes): void | Promise<void> => {
      while (at < end) {
        const extent = disk.extent(at, end - at);
        if (extent === null) return disk.load(at, end - at).then(() => walk(at));
        const reach = at + extent.length;
        // The rest of a grain that holds any data needs no answer of its own.
        const next = extent.kind === 'zero' ? reach : roundUp(reach, GRAIN);
        if (extent.kind === 'data') put(Math.floor(at / GRAIN), Math.min(last, next / GRAIN));
        at = next;
      }
    };
    return walk(first * GRAIN);
  };
}

function sparseFile(disk: Extents & { readonly id: string }, plan: SparsePlan, name: string): VirtualFile {
  const { tables, redundantAt, redundantTablesAt, directoryAt, tablesAt, dataAt } = plan;
  const entries = tableEntries(disk, plan);
  const lead = leadFor(plan, harmless(`${name}.vmdk`), `sparse view\n${disk.id}\n${name}`);
  return virtualFile('.vmdk', [
    constant(lead),
    table(4, redundantTablesAt - redundantAt, directoryEntries(redundantTablesAt, tables)),
    table(4, tables * TABLE, entries),
    table(4, tablesAt - directoryAt, directoryEntries(tablesAt, tables)),
    table(4, tables * TABLE, entries),
    zeroPiece(dataAt - tablesAt - tables * TABLE),
    diskPiece(plan.grains * GRAIN),
  ]);
}

function flatFiles(disk: { readonly id: string; readonly size: Bytes }, name: string): readonly VirtualFile[] {
  const size = roundUp(disk.size, SECTOR);
  const extent = `FLAT "${quotable(`${name}-flat.vmdk`)}" 0`;
  const seed = `flat view\n${disk.id}\n${name}`;
  const descriptor = descriptorBytes({ createType: 'monolithicFlat', extent, size, seed }, '\n');
  return [virtualFile('.vmdk', [constant(descriptor)]), virtualFile('-flat.vmdk', [diskPiece(size)])];
}

/**
 * Read-only up to 2 TiB: one sparse file, in which grains without data have no table entry and stay holes. Writable, and
 * above: a descriptor, the first file, and beside it the disk as it is. A hypervisor changes nothing there but the disk
 * and, in place, the descriptor.
 */
export const vmdkFormat: DiskFormat = {
  name: 'vmdk',
  title: 'VMware virtual disk',
  layout(disk: Extents & { readonly id: string }, spec: LayoutSpec): readonly VirtualFile[] {
    const plan = spec.writable ? null : planFor(disk.size);
    return plan === null ? flatFiles(disk, spec.name) : [sparseFile(disk, plan, spec.name)];
  },
};

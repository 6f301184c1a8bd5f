/** Bundles built file by file, for tests: snapshots, which no program at hand makes. */
import { HEADER_SIZE, Header, MAGIC, SECTOR, type TableUnit } from './structs.ts';

export interface FileSpec {
  readonly clusterSectors: number;
  /** Per cluster its content; null for none. */
  readonly clusters: readonly (Uint8Array | null)[];
  readonly unit: TableUnit;
  readonly inUse?: number;
}

/** An image whose clusters lie in reverse order. */
export function hdsFile({ clusterSectors, clusters, unit, inUse = 0 }: FileSpec): Uint8Array {
  const size = clusterSectors * SECTOR;
  const first = Math.ceil((HEADER_SIZE + clusters.length * 4) / size);
  const stored = clusters.flatMap((data, i) => (data === null ? [] : [{ data, i }])).toReversed();
  const file = new Uint8Array((first + stored.length) * size);
  const header = Header.build({
    magic: new TextEncoder().encode(MAGIC[unit]),
    version: 2,
    heads: 16,
    cylinders: 1,
    clusterSectors,
    tableEntries: clusters.length,
    sectors: clusters.length * clusterSectors,
    inUse,
    dataSector: first * clusterSectors,
    flags: 0,
    extensionSector: 0,
  });
  file.set(header);
  const view = new DataView(file.buffer);
  for (const [n, { data, i }] of stored.entries()) {
    const place = first + n;
    view.setUint32(HEADER_SIZE + i * 4, unit === 'sectors' ? place * clusterSectors : place, true);
    file.set(data, place * size);
  }
  return file;
}

export const NULL_GUID = '{00000000-0000-0000-0000-000000000000}';
export const guidOf = (n: number): string => `{${String(n).padStart(8, '0')}-1111-2222-3333-444444444444}`;

export interface BundleSpec {
  readonly sectors: number;
  readonly storages: readonly {
    readonly start: number;
    readonly end: number;
    readonly images: readonly { readonly guid: string; readonly type?: string; readonly file: string }[];
  }[];
  readonly shots: readonly { readonly guid: string; readonly parent: string }[];
  readonly top?: string;
  readonly engine?: string;
  readonly padding?: number;
}

export function descriptorXml(spec: BundleSpec): Uint8Array {
  const image = ({ guid, type = 'Compressed', file }: { guid: string; type?: string; file: string }): string =>
    `<Image><GUID>${guid}</GUID><Type>${type}</Type><File>${file}</File></Image>`;
  const storage = ({ start, end, images }: BundleSpec['storages'][number]): string =>
    `<Storage><Start>${start}</Start><End>${end}</End><Blocksize>128</Blocksize>${images.map(image).join('')}</Storage>`;
  const shot = ({ guid, parent }: BundleSpec['shots'][number]): string =>
    `<Shot><GUID>${guid}</GUID><ParentGUID>${parent}</ParentGUID></Shot>`;
  const top = spec.top === undefined ? '' : `<TopGUID>${spec.top}</TopGUID>`;
  return new TextEncoder().encode(`<?xml version='1.0' encoding='UTF-8'?>
<Parallels_disk_image Version="1.0">
  <!-- made for a test -->
  <Disk_Parameters>
    <Disk_size>${spec.sectors}</Disk_size><LogicSectorSize>512</LogicSectorSize><Padding>${spec.padding ?? 0}</Padding>
    <Encryption><Engine>${spec.engine ?? NULL_GUID}</Engine><Data></Data></Encryption>
  </Disk_Parameters>
  <StorageData>${spec.storages.map(storage).join('')}</StorageData>
  <Snapshots>${top}${spec.shots.map(shot).join('')}</Snapshots>
</Parallels_disk_image>
`);
}

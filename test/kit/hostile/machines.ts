/** Backups of Macrium Reflect and of Proxmox that were made to hurt. */
import { gzipSync } from 'node:zlib';
import { buildFile, bytesOf, content as noise } from '../../../formats/macrium/fixtures.ts';
import { addSnapshot, encodeBlob, type Files as MutableFiles } from '../../../formats/pbs/fixtures.ts';
import { pbs } from '../../../formats/pbs/index.ts';
import { archive } from '../../../formats/vma/fixtures.ts';
import { vma } from '../../../formats/vma/index.ts';
import type { Files } from '../../fuzz/damage.ts';
import { BOMB, changed, type Hostile, MIB } from './hostile.ts';

// ── Macrium ────────────────────────────────────────────────────────────────────

function macriumWith(edit: (description: Record<string, never>) => void): Files {
  const disk = {
    format: 'mbr',
    size: 2 * MIB,
    bootTrack: noise(32_256, 9),
    partitions: [
      { start: 131_072, length: 65_536, blockSize: 65_536, blockCount: 1, blocks: new Map([[0, noise(65_536, 1)]]) },
    ],
  } as const;
  return { '0123456789ABCDEF-00-00.mrimgx': bytesOf(buildFile({ number: 0, disks: [disk], edit })) };
}

/** Every number of a name in a document. */
function replaceAll(document: unknown, name: string, value: number): void {
  if (typeof document !== 'object' || document === null) return;
  for (const [key, its] of Object.entries(document)) {
    if (key === name) (document as Record<string, unknown>)[key] = value;
    else replaceAll(its, name, value);
  }
}

export const MACRIUM: readonly Omit<Hostile, 'adapter'>[] = ['block_count', 'block_size'].map(field => ({
  what: `${field} of 2^52`,
  name: '0123456789ABCDEF-00-00.mrimgx',
  files: () => macriumWith(description => replaceAll(description, field, 2 ** 52)),
}));

// ── Proxmox ────────────────────────────────────────────────────────────────────

const SNAPSHOT = 'vm/1/2026-11-20T10:00:00Z';
const BLOB = `${SNAPSHOT}/index.json.blob`;

async function pbsWith(edit: (files: MutableFiles) => void): Promise<Files> {
  const files: MutableFiles = {};
  const disks = [{ filename: 'drive-scsi0.img.fidx', content: new Uint8Array(65_536).fill(5) }];
  await addSnapshot(files, { folder: SNAPSHOT, chunkSize: 16_384, disks });
  edit(files);
  return files;
}

export const PROXMOX: readonly Hostile[] = [
  {
    what: 'an index of 2^52 bytes',
    adapter: pbs,
    name: BLOB,
    files: () =>
      pbsWith(files => {
        const name = `${SNAPSHOT}/drive-scsi0.img.fidx`;
        files[name] = changed(files[name]!, view => view.setBigUint64(64, 2n ** 52n, true));
      }),
  },
  {
    what: 'a manifest that is a bomb',
    adapter: pbs,
    name: BLOB,
    files: () => pbsWith(files => void Object.assign(files, { [BLOB]: encodeBlob(BOMB, null) })),
  },
  {
    what: 'chunks that are bombs',
    adapter: pbs,
    name: BLOB,
    files: () =>
      pbsWith(files => {
        for (const name of Object.keys(files)) if (name.startsWith('.chunks')) files[name] = encodeBlob(BOMB, null);
      }),
  },
  {
    what: 'a header of 4 GiB',
    adapter: vma,
    name: 'a.vma',
    files: () => {
      const file = archive({ devices: [{ name: 'drive-scsi0', content: new Uint8Array(65_536).fill(1) }] });
      return { 'a.vma': changed(file, view => view.setUint32(56, 0xffff_fe00)) };
    },
  },
  {
    what: 'an archive that is a bomb',
    adapter: vma,
    name: 'a.vma.gz',
    files: () => {
      const file = archive({ devices: [{ name: 'drive-scsi0', content: new Uint8Array(65_536).fill(1) }] });
      return { 'a.vma.gz': gzipSync(Buffer.concat([file, BOMB]), { level: 1 }) };
    },
  },
];

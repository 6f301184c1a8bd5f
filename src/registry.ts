/** The only file that names formats: one line each. */
import { aff4 } from '../formats/aff4/index.ts';
import { bml, bmlChain, bmlKeys, bmlLuks } from '../formats/bml/index.ts';
import { ewf } from '../formats/ewf/index.ts';
import { macrium } from '../formats/macrium/index.ts';
import { parallels } from '../formats/parallels/index.ts';
import { clonezilla, partclone } from '../formats/partclone/index.ts';
import { pbs } from '../formats/pbs/index.ts';
import { qcow1 } from '../formats/qcow1/index.ts';
import { qcow2, qcow2Format, writeQcow2 } from '../formats/qcow2/index.ts';
import { qed } from '../formats/qed/index.ts';
import { raw, rawFormat } from '../formats/raw/index.ts';
import { vdi, vdiFormat, writeVdi } from '../formats/vdi/index.ts';
import { vhd, vhdFormat, writeVhd } from '../formats/vhd/index.ts';
import { vhdx, vhdxFormat, writeVhdx } from '../formats/vhdx/index.ts';
import { virtnbdbackup } from '../formats/virtnbdbackup/index.ts';
import { vma } from '../formats/vma/index.ts';
import { ova, vmdk, vmdkFormat, writeVmdk } from '../formats/vmdk/index.ts';
import { xo } from '../formats/xo/index.ts';
import { xva } from '../formats/xva/index.ts';
import type { Adapter, ByteFile, Bytes, Disk, DiskFormat } from './base/contracts.ts';

/** In the order in which they are asked; `raw` takes what nobody is certain about. */
export const adapters: readonly Adapter[] = [
  bml,
  qcow2,
  // Before `vhd`, whose footers its directories have as files.
  xo,
  vhd,
  vhdx,
  vdi,
  parallels,
  qcow1,
  qed,
  vmdk,
  ova,
  pbs,
  vma,
  virtnbdbackup,
  macrium,
  ewf,
  aff4,
  xva,
  clonezilla,
  partclone,
  raw,
];

/** What a restore point appears as. */
export const diskFormats: readonly DiskFormat[] = [
  rawFormat,
  vhdFormat,
  vhdxFormat,
  qcow2Format,
  vdiFormat,
  vmdkFormat,
];

export type FileWriter = (
  disk: Disk,
  file: ByteFile,
  onProgress?: (done: Bytes, total: Bytes) => void,
  signal?: AbortSignal,
) => Promise<void>;

/** Formats that a disk can be written to as a file of its own; raw needs no writer. */
export const fileWriters: Readonly<Record<string, FileWriter>> = {
  qcow2: writeQcow2,
  vhd: writeVhd,
  vhdx: writeVhdx,
  vdi: writeVdi,
  vmdk: writeVmdk,
};

/** Formats whose chains can be consolidated and pruned, by the adapter's name. */
export const chainFormats: Readonly<Record<string, typeof bmlChain>> = { bml: bmlChain };

/** Formats whose keys can be added and removed, by the adapter's name. */
export const keyEditors: Readonly<Record<string, typeof bmlKeys>> = { bml: bmlKeys };

/** Formats of which a disk can become a LUKS image without its key, by the adapter's name. */
export const luksImages: Readonly<Record<string, typeof bmlLuks>> = { bml: bmlLuks };

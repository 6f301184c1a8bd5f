/** Which format a disk file is to be written in. */
import path from 'node:path';
import { fileWriters } from '../registry.ts';

/** Formats that can be written. */
export const FILE_FORMATS: readonly string[] = ['raw', ...Object.keys(fileWriters).sort()];
const RAW_ENDINGS = ['raw', 'img', 'dd', 'bin'];

/** As the file's name ends; null when that says nothing. */
export function formatByName(file: string): string | null {
  const ending = path.extname(file).slice(1).toLowerCase();
  if (RAW_ENDINGS.includes(ending)) return 'raw';
  return FILE_FORMATS.includes(ending) ? ending : null;
}

/** Names of other files inside a descriptor, and the names that VMware gives to the parts of a disk. */
import { nameInStore } from '../../src/base/backing.ts';
import type { ByteSource } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';

/** Opens a file of the store by its name; 'not-found' when it is missing. */
export type Opener = (name: string) => Promise<ByteSource>;

export interface Located {
  readonly name: string;
  readonly source: ByteSource;
  readonly warnings: readonly string[];
}

export const baseName = (name: string): string => name.slice(name.lastIndexOf('/') + 1);
const beside = (image: string, base: string): string => image.slice(0, image.lastIndexOf('/') + 1) + base;

/** Where `written` may lie, most exact first: relative to the image, with the separators of Windows too, then beside it. */
export function candidates(image: string, written: string): readonly string[] {
  const names: string[] = [];
  const add = (name: string): unknown => names.includes(name) || names.push(name);
  for (const form of [written, written.replaceAll('\\', '/')]) {
    const found = nameInStore(image, form);
    if (found.kind === 'inside') add(found.name);
  }
  const base = written.split(/[\\/]/).at(-1)!;
  if (base !== '' && base !== '.' && base !== '..' && !base.includes('\0')) add(beside(image, base));
  return names;
}

/** The first candidate that is there; null when none is. */
export async function findFile(image: string, written: string, open: Opener): Promise<Located | null> {
  for (const name of candidates(image, written)) {
    try {
      const source = await open(name);
      const elsewhere = name === nameAsWritten(image, written) ? [] : [`"${written}" is taken from "${name}"`];
      return { name, source, warnings: elsewhere };
    } catch (error) {
      if (!(error instanceof ImageError) || error.fault !== 'not-found') throw error;
    }
  }
  return null;
}

function nameAsWritten(image: string, written: string): string | null {
  const found = nameInStore(image, written);
  return found.kind === 'inside' && found.warning === null ? found.name : null;
}

export interface PartName {
  /** The descriptor that should name the part, in the same folder. */
  readonly descriptor: string;
  /** Raw data without any structure. */
  readonly flat: boolean;
  /** Holds only what was written since a snapshot. */
  readonly delta: boolean;
}

/** `x-flat.vmdk`, `x-s001.vmdk`, `x-000001-delta.vmdk`, …: a part of the disk that `x.vmdk` describes; null for other names. */
export function partName(name: string): PartName | null {
  const found = /^(.*?)-(flat|delta|sesparse|s\d{3,5}|f\d{3,5})\.vmdk$/i.exec(name);
  if (found === null || found[1] === '' || found[1]!.endsWith('/')) return null;
  const kind = found[2]!.toLowerCase();
  return {
    descriptor: `${found[1]}.vmdk`,
    flat: kind.startsWith('f'),
    delta: kind === 'delta' || kind === 'sesparse' || /-\d{6}$/.test(found[1]!),
  };
}

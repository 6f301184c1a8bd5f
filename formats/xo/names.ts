/** Names in a remote of Xen Orchestra, and the names by which a disk knows its parent. */
import type { LayerId, ParentRef, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { type HeaderFields, uuidText } from '../../src/base/vhd.ts';
import { backupTime } from '../../src/base/xen-orchestra.ts';
import type { Directory } from './directory.ts';

export const ALIAS = '.alias.vhd';
const LONGEST_ALIAS = 1024;
const LONGEST_LOCATOR = 65_536;

const folderOf = (name: string): string => name.slice(0, Math.max(0, name.lastIndexOf('/')));
const lastPart = (path: string): string => path.slice(path.lastIndexOf('/') + 1);
const untilNul = (text: string): string => text.split('\0', 1)[0]!;

/** `a/b` and `../c` make `a/c`; null when that leads outside. */
function joined(folder: string, relative: string): string | null {
  const out = folder === '' ? [] : folder.split('/');
  for (const part of relative.split('/')) {
    if (part === '' || part === '.') continue;
    if (part !== '..') out.push(part);
    else if (out.pop() === undefined) return null;
  }
  return out.join('/');
}

/** The directory that an alias stands for: its content is a path, relative to the alias. */
export async function targetOf(store: Store, alias: string): Promise<string> {
  await using source = await store.open(alias);
  const refuse = (fault: 'unsupported' | 'corrupt', message: string): never => {
    throw new ImageError(fault, message, { file: alias, at: 0 });
  };
  if (source.size > LONGEST_ALIAS) refuse('corrupt', `an alias of ${source.size} bytes is too long`);
  const raw = new Uint8Array(source.size);
  await source.read(raw, 0);
  const path = new TextDecoder().decode(raw).trim();
  // biome-ignore lint/suspicious/noControlCharactersInRegex: their presence is what tells a path from ciphertext.
  if (path === '' || /[\x00-\x1f\ufffd]/.test(path)) {
    refuse('unsupported', 'the alias holds no path: files of an encrypted remote cannot be read');
  }
  const target = path.startsWith('/') ? null : joined(folderOf(alias), path);
  if (target === null || target === '') refuse('corrupt', `${JSON.stringify(path)} leads outside the repository`);
  if (target!.endsWith(ALIAS)) refuse('corrupt', 'an alias may not stand for another alias');
  return target!;
}

/** The parent by its UUID, with the names under which it may lie. */
export async function parentOf(directory: Directory, header: HeaderFields): Promise<ParentRef> {
  const names = [untilNul(Buffer.from(header.parentUnicodeName).swap16().toString('utf16le'))];
  for (const [i, { platformCode, platformDataLength: length }] of header.parentLocators.entries()) {
    const code = Buffer.from(platformCode).toString('latin1');
    if ((code !== 'W2ru' && code !== 'W2ku') || length === 0 || length > LONGEST_LOCATOR) continue;
    try {
      const raw = new Uint8Array(length);
      await directory.readPart(`parentLocatorEntry${i}`, raw, 0, length);
      names.push(untilNul(Buffer.from(raw).toString('utf16le')));
    } catch (error) {
      // Names are hints; the parent is known by its UUID.
      if (!(error instanceof ImageError)) throw error;
    }
  }
  const usable = names.map(name => lastPart(name.replaceAll('\\', '/'))).filter(name => name !== '');
  return { by: 'id', id: `vhd:${uuidText(header.parentUniqueId)}` as LayerId, names: [...new Set(usable)] };
}

/** `20261120T100000Z.alias.vhd` is named after the time of the backup. */
export const timeOf = (name: string): Date | null => backupTime(lastPart(name));

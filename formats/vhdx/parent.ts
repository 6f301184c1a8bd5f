/** How a differencing disk names the disk below it: [MS-VHDX] section 2.6.2.6. */
import type { ByteSource, LayerId, ParentRef } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import type { Area } from './header.ts';
import { LOCATOR_TYPE, LocatorEntry, NULL_GUID, ParentLocator, parseAt } from './structs.ts';

const slashes = (path: string): string => path.replaceAll('\\', '/').replace(/^(\.\/)+/, '');
const lastPart = (path: string): string => path.slice(path.lastIndexOf('/') + 1);

/** The id of an image is its DataWriteGuid: a child names the very content that it was made over. */
export const idOf = (dataWriteGuid: string): LayerId => `vhdx:${dataWriteGuid}` as LayerId;

/** Keys and values; a value outside the locator is an error. */
async function readLocator(source: ByteSource, area: Area): Promise<ReadonlyMap<string, string>> {
  const file = source.name;
  const raw = new Uint8Array(area.length);
  await source.read(raw, area.at);
  const { type, keyValueCount } = parseAt(ParentLocator, raw, 0, area.at, file);
  if (type !== LOCATOR_TYPE) {
    const where = { file, at: area.at, field: 'type' };
    throw new ImageError('unsupported', `parent locator type ${type} is not known`, where);
  }
  const text = (from: number, length: number, entryAt: number): string => {
    if (from + length <= raw.length) return Buffer.from(raw.subarray(from, from + length)).toString('utf16le');
    throw new ImageError('corrupt', 'a name of the parent lies outside its locator', { file, at: area.at + entryAt });
  };
  const found = new Map<string, string>();
  for (let i = 0; i < keyValueCount; i++) {
    const at = ParentLocator.size + i * LocatorEntry.size;
    const entry = parseAt(LocatorEntry, raw, at, area.at, file);
    const value = text(entry.valueOffset, entry.valueLength, at);
    found.set(text(entry.keyOffset, entry.keyLength, at), value.split('\0', 1)[0]!);
  }
  return found;
}

const guidIn = (text: string | undefined): string | null =>
  /^\{?([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})\}?$/i.exec(text ?? '')?.[1]?.toLowerCase() ?? null;

/** The parent by its DataWriteGuid, with the names under which it may lie, relative to the child's folder. */
export async function parentOf(source: ByteSource, locator: Area, warnings: string[]): Promise<ParentRef> {
  const found = await readLocator(source, locator);
  const linkage = guidIn(found.get('parent_linkage'));
  if (linkage === null) {
    const where = { file: source.name, at: locator.at, field: 'parent_linkage' };
    throw new ImageError('corrupt', 'the parent locator does not say which disk is the parent', where);
  }
  const other = guidIn(found.get('parent_linkage2'));
  if (other !== null && other !== NULL_GUID && other !== linkage) {
    warnings.push(`the parent may also be vhdx:${other}; only vhdx:${linkage} is looked for`);
  }
  const relative = slashes(found.get('relative_path') ?? '');
  const absolute = ['absolute_win32_path', 'volume_path'].map(key => lastPart(slashes(found.get(key) ?? '')));
  const usable = [relative, lastPart(relative), ...absolute].filter(name => name !== '' && !name.startsWith('/'));
  return { by: 'id', id: idOf(linkage), names: [...new Set(usable)] };
}

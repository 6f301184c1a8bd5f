/** How a differencing disk names the disk below it: specification, section "Dynamic Disk Header Format". */
import type { ByteSource, LayerId, ParentRef } from '../../src/base/contracts.ts';
import { type HeaderFields, type LocatorFields, uuidText } from '../../src/base/vhd.ts';

/** A Windows path has at most 32,767 characters. */
const LONGEST_LOCATOR = 65_536;

const untilNul = (text: string): string => text.split('\0', 1)[0]!;
const slashes = (path: string): string => path.replaceAll('\\', '/').replace(/^(\.\/)+/, '');
const lastPart = (path: string): string => path.slice(path.lastIndexOf('/') + 1);

const fromUtf16be = (raw: Uint8Array): string => untilNul(Buffer.from(raw).swap16().toString('utf16le'));
const fromUtf16le = (raw: Uint8Array): string => untilNul(Buffer.from(raw).toString('utf16le'));

function urlPath(url: string): string {
  try {
    return decodeURIComponent(untilNul(url));
  } catch {
    return untilNul(url);
  }
}

/** Names that a locator's content stands for, most exact first. */
function namesIn(code: string, raw: Uint8Array): readonly string[] {
  switch (code) {
    case 'W2ru': {
      const path = slashes(fromUtf16le(raw));
      return [path, lastPart(path)];
    }
    case 'W2ku':
      return [lastPart(slashes(fromUtf16le(raw)))];
    case 'MacX':
      return [lastPart(urlPath(Buffer.from(raw).toString('utf8')))];
    case 'Wi2r':
    case 'Wi2k':
      return [lastPart(slashes(untilNul(Buffer.from(raw).toString('latin1'))))];
    default:
      return [];
  }
}

async function locatorNames(
  source: ByteSource,
  locator: LocatorFields,
  warnings: string[],
): Promise<readonly string[]> {
  const code = Buffer.from(locator.platformCode).toString('latin1');
  const { platformDataLength: length, platformDataOffset: at } = locator;
  if (code === '\0\0\0\0' || length === 0) return [];
  if (length > LONGEST_LOCATOR || at + length > source.size) {
    warnings.push(`parent locator ${code.replace(/[^\x20-\x7e]/g, '?')} points outside the file and is left out`);
    return [];
  }
  const raw = new Uint8Array(length);
  await source.read(raw, at);
  return namesIn(code, raw);
}

const ORDER = ['W2ru', 'W2ku', 'MacX', 'Wi2r', 'Wi2k'];

/** The parent by its UUID, with the names under which it may lie, relative to the child's folder. */
export async function parentOf(source: ByteSource, header: HeaderFields, warnings: string[]): Promise<ParentRef> {
  const rank = (locator: LocatorFields): number => {
    const i = ORDER.indexOf(Buffer.from(locator.platformCode).toString('latin1'));
    return i < 0 ? ORDER.length : i;
  };
  const names: string[] = [];
  for (const locator of header.parentLocators.toSorted((a, b) => rank(a) - rank(b))) {
    names.push(...(await locatorNames(source, locator, warnings)));
  }
  names.push(lastPart(slashes(fromUtf16be(header.parentUnicodeName))));
  const usable = names.filter(name => name !== '' && !name.startsWith('/'));
  return { by: 'id', id: `vhd:${uuidText(header.parentUniqueId)}` as LayerId, names: [...new Set(usable)] };
}

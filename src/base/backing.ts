/** Names of other files inside an image, made into names of the store. Nothing outside the store is ever named. */

export type FileName =
  | { readonly kind: 'inside'; readonly name: string; readonly warning: string | null }
  | { readonly kind: 'refused'; readonly why: string };

const folderOf = (name: string): string[] => name.split('/').slice(0, -1);

/** `a/b` + `../c` = `a/c`; null when it climbs above the store. */
function join(folder: readonly string[], relative: string): string | null {
  const out = [...folder];
  for (const part of relative.split('/')) {
    if (part === '' || part === '.') continue;
    if (part !== '..') out.push(part);
    else if (out.pop() === undefined) return null;
  }
  return out.join('/');
}

/**
 * What `written`, found in the image `image`, is called in the image's store. Relative names count from the image's
 * folder, as QEMU does for backing files. Absolute names and names that climb out of the store fall back to the same
 * base name beside the image, with a warning: backups are moved together, and nothing outside is opened.
 */
export function nameInStore(image: string, written: string): FileName {
  const refused = (why: string): FileName => ({ kind: 'refused', why });
  if (written === '' || written.includes('\0')) return refused('is not a file name');
  const isWindows = /^[A-Za-z]:[\\/]/.test(written) || written.startsWith('\\\\');
  const path = /^file:(?!\/\/)/.test(written) ? written.slice(5) : written;
  // QEMU takes whatever stands before a colon in the first path segment for a protocol.
  const protocol = isWindows ? null : /^([^/:]*):/.exec(path);
  if (protocol) return refused(`uses "${protocol[1]}:", and only files of the repository are opened`);
  const folder = folderOf(image);
  if (!isWindows && !path.startsWith('/')) {
    const name = join(folder, path);
    if (name === '') return refused('is not a file name');
    if (name !== null) return { kind: 'inside', name, warning: null };
  }
  const base = path.split(isWindows ? /[\\/]/ : '/').at(-1)!;
  if (base === '' || base === '.' || base === '..') return refused('is not a file name');
  const name = [...folder, base].join('/');
  return { kind: 'inside', name, warning: `"${written}" lies outside the repository; "${name}" is taken instead` };
}

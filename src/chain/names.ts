/** Names of sets and points: they become folder names in the tree, and are the same on the command line. */

/** `YYYY-MM-DDTHH-MM-SSZ`, UTC. */
export function timeName(time: Date): string {
  return `${time.toISOString().slice(0, 19).replaceAll(':', '-')}Z`;
}

/** The file's own name without folder and extension. */
export function stem(file: string): string {
  const base = file.slice(file.lastIndexOf('/') + 1);
  const dot = base.lastIndexOf('.');
  return dot > 0 ? base.slice(0, dot) : base;
}

export function folderOf(file: string): string {
  const slash = file.lastIndexOf('/');
  return slash < 0 ? '' : file.slice(0, slash);
}

/** One folder name: no separators, not `.` or `..`, at most 200 bytes, and `@` left to the command line. */
export function safeName(name: string): string {
  let safe = name.replaceAll('/', '-').replaceAll('\0', '-').replaceAll('@', '-');
  while (Buffer.byteLength(safe) > 200) safe = safe.slice(0, -1);
  return safe === '' || safe === '.' || safe === '..' ? `-${safe}` : safe;
}

/** Makes names unique in the order they come: the second `a` is `a-2`. */
export function uniqueNames(): (name: string) => string {
  const taken = new Set<string>();
  return name => {
    let unique = name;
    for (let n = 2; taken.has(unique); n++) unique = `${name}-${n}`;
    taken.add(unique);
    return unique;
  };
}

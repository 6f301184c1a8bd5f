import fs from 'node:fs';

/** Which processes hold files below a mountpoint open: `name (pid): path`. Reads links only, so it never touches the mount. */
export function openFilesBelow(mountpoint: string): readonly string[] {
  const found: string[] = [];
  for (const pid of fs.readdirSync('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const links = [`/proc/${pid}/cwd`];
    try {
      links.push(...fs.readdirSync(`/proc/${pid}/fd`).map(fd => `/proc/${pid}/fd/${fd}`));
    } catch {
      continue; // Ended meanwhile, or another user's.
    }
    const held = new Set<string>();
    for (const link of links) {
      try {
        const target = fs.readlinkSync(link);
        if (target === mountpoint || target.startsWith(`${mountpoint}/`)) held.add(target);
      } catch {
        // Closed meanwhile.
      }
    }
    if (held.size === 0) continue;
    const name = fs.readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
    for (const target of held) found.push(`${name} (${pid}): ${target}`);
  }
  return found;
}

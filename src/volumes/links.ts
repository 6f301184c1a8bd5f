/** Symbolic links of a volume, so that following one never leads out of it. */
import { shownName } from './names.ts';

const DRIVE = /^[A-Za-z]:(?=\/|$)/;

/**
 * The target as a relative path that stays inside the volume, for a link `depth` folders below its root. Absolute
 * targets begin at the volume's root, as they did; `..` ends there. Names are written as the mount shows them.
 *
 * `..` after a name is taken away together with that name. Only leading `..` are left, which the kernel follows from
 * the folder that the link is really in: that is what keeps a chain of links inside.
 */
export function linkInside(target: string, depth: number, drives: boolean): string {
  const path = drives ? target.replace(DRIVE, '') : target;
  const absolute = path.startsWith('/') || path.length < target.length;
  let up = absolute ? depth : 0;
  const names: string[] = [];
  for (const part of path.split('/')) {
    if (part === '' || part === '.') continue;
    if (part !== '..') names.push(shownName(part));
    else if (names.length > 0) names.pop();
    else if (!absolute && up < depth) up++;
  }
  return [...Array<string>(up).fill('..'), ...names].join('/') || '.';
}

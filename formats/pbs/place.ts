/** Where a snapshot lies: `[ns/<name>/]…<type>/<id>/<time>` below the datastore's folder. */

export interface Place {
  /** The datastore's folder in the store: '' or with a slash at its end. */
  readonly root: string;
  /** The snapshot's folder, likewise. */
  readonly folder: string;
  /** As the product names it: `vm/100`, in a namespace `office/mail/vm/100`. */
  readonly group: string;
  readonly time: Date;
}

const slashed = (parts: readonly string[]): string => parts.map(part => `${part}/`).join('');

/** null: the name does not say in which datastore the snapshot lies. */
export function placeOf(name: string): Place | null {
  const parts = name.split('/').slice(0, -1);
  const [type, id, stamp] = parts.slice(-3);
  if (stamp === undefined || !/^(vm|ct|host)$/.test(type!)) return null;
  const time = new Date(stamp);
  if (!/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/.test(stamp) || Number.isNaN(time.getTime())) return null;
  let root = parts.slice(0, -3);
  const spaces: string[] = [];
  while (root.length >= 2 && root.at(-2) === 'ns') {
    spaces.unshift(root.at(-1)!);
    root = root.slice(0, -2);
  }
  return { root: slashed(root), folder: slashed(parts), group: [...spaces, type, id].join('/'), time };
}

/** File of a chunk, from its digest in hexadecimal. */
export const chunkFile = (root: string, digest: string): string => `${root}.chunks/${digest.slice(0, 4)}/${digest}`;

/** One file of a backup as a row for people and as a document for programs. */
import type { ImageError } from '../base/errors.ts';
import type { PointNode } from '../files/point-files.ts';
import { display, formatTime } from './text.ts';

const TYPE = { dir: 'd', file: '-', link: 'l' } as const;
const DEVICE = { char: 'c', block: 'b', fifo: 'p', socket: 's' } as const;

/** `-rwsr-xr-x`, as ls writes it. */
export function modeText(node: PointNode): string {
  const { mode } = node;
  const bits = [...'rwxrwxrwx'].map((letter, i) => (Math.floor(mode / 2 ** (8 - i)) % 2 === 1 ? letter : '-'));
  for (const [bit, at, letter] of [
    [0o4000, 2, 's'],
    [0o2000, 5, 's'],
    [0o1000, 8, 't'],
  ] as const) {
    if (Math.floor(mode / bit) % 2 === 1) bits[at] = bits[at] === 'x' ? letter : letter.toUpperCase();
  }
  const type = node.kind !== 'other' ? TYPE[node.kind] : node.device === null ? '?' : DEVICE[node.device.type];
  return type + bits.join('');
}

export const nameText = (name: string, node: PointNode): string =>
  node.kind === 'link' ? `${display(name)} -> ${display(node.target)}` : display(name);

export function nodeRow(name: string, node: PointNode): readonly string[] {
  const { links, uid, gid, mtime } = node;
  const size = node.kind === 'file' ? String(node.size) : '-';
  return [modeText(node), String(links), `${uid}:${gid}`, size, formatTime(mtime), nameText(name, node)];
}

export const NODE_COLUMNS = [
  { title: 'MODE' },
  { title: 'LINKS', right: true },
  { title: 'OWNER' },
  { title: 'SIZE', right: true },
  { title: 'CHANGED' },
  { title: 'NAME' },
];

export function nodeJson(path: string, node: PointNode): object {
  const { kind, mtime, mode, uid, gid, links } = node;
  return {
    path,
    kind,
    ...(node.kind === 'file' ? { size: node.size } : {}),
    mtime: mtime.toISOString(),
    mode: mode.toString(8).padStart(4, '0'),
    uid,
    gid,
    links,
    ...(node.kind === 'link' ? { target: node.target } : {}),
  };
}

export const errorJsonOf = (path: string, { fault, message }: ImageError): object => ({
  path,
  error: { fault, message },
});

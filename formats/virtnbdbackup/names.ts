/** Names in a backup folder, and what the machine's configuration says about them. */
import type { Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { type Element, parseXml } from '../../src/base/xml.ts';

export type Level = 'full' | 'copy' | 'inc' | 'diff';

/** `sda.full.data`, `sda.inc.virtnbdbackup.1.data`, `sda.diff.1795191567.data`. */
export interface DataName {
  /** '' or with a slash at its end. */
  readonly folder: string;
  readonly disk: string;
  readonly level: Level;
  /** Checkpoint of an increment, time of a differential, '' otherwise. */
  readonly tag: string;
  /** The backup did not come to its end. */
  readonly partial: boolean;
}

export function parseName(name: string): DataName | null {
  const slash = name.lastIndexOf('/') + 1;
  const found = /^([^.]+)\.(?:(full|copy)|(inc|diff)\.(.+))\.data(\.partial)?$/.exec(name.slice(slash));
  if (found === null) return null;
  return {
    folder: name.slice(0, slash),
    disk: found[1]!,
    level: (found[2] ?? found[3]) as Level,
    tag: found[4] ?? '',
    partial: found[5] !== undefined,
  };
}

export const dataFile = (folder: string, disk: string, level: Level, tag: string): string =>
  `${folder}${disk}.${level}${tag === '' ? '' : `.${tag}`}.data`;

const TEXT_MOST = 4 * 2 ** 20;

/** A small text file; null when it is missing or no such file. */
export async function readText(store: Store, name: string): Promise<string | null> {
  try {
    await using source = await store.open(name);
    if (source.size > TEXT_MOST) return null;
    const raw = new Uint8Array(source.size);
    await source.read(raw, 0);
    return new TextDecoder().decode(raw);
  } catch (error) {
    if (error instanceof ImageError && error.fault === 'not-found') return null;
    throw error;
  }
}

export async function exists(store: Store, name: string): Promise<boolean> {
  try {
    await (await store.open(name))[Symbol.asyncDispose]();
    return true;
  } catch (error) {
    if (error instanceof ImageError && error.fault === 'not-found') return false;
    throw error;
  }
}

export interface Domain {
  readonly name: string | null;
  /** Its disks by their device names, in the order in which the machine boots from them. */
  readonly disks: readonly string[];
}

const NOTHING: Domain = { name: null, disks: [] };

const named = (of: Element, name: string): readonly Element[] => of.children.filter(child => child.name === name);

/** Name and disks of a libvirt domain (libvirt's "Domain XML format"); none of a text that is not XML. */
export function parseDomain(xml: string): Domain {
  let domain: Element;
  try {
    domain = parseXml(xml, 'the machine');
  } catch (error) {
    if (error instanceof ImageError) return NOTHING;
    throw error;
  }
  const disks: { readonly dev: string; readonly order: number }[] = [];
  for (const disk of named(domain, 'devices').flatMap(devices => named(devices, 'disk'))) {
    const device = disk.attributes.get('device') ?? 'disk';
    const dev = named(disk, 'target')[0]?.attributes.get('dev') ?? '';
    const order = named(disk, 'boot')[0]?.attributes.get('order') ?? '';
    if (device !== 'disk' || !/^[\w-]+$/.test(dev)) continue;
    disks.push({ dev, order: /^\d+$/.test(order) ? Number(order) : Number.MAX_SAFE_INTEGER });
  }
  const name = named(domain, 'name')[0]?.text ?? '';
  return {
    name: name === '' || name.length > 200 ? null : name,
    disks: disks.toSorted((a, b) => a.order - b.order).map(({ dev }) => dev),
  };
}

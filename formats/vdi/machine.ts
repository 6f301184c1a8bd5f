/**
 * Whether VirtualBox encrypts a disk. A VDI file does not say so itself: the key store is a property of the disk in the
 * machine's settings file (`.vbox`), where a differencing disk stands inside the disk below it.
 */
import type { Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';

/** A settings file with hundreds of snapshots has some hundred KiB. */
const LARGEST = 8 * 2 ** 20;

const folderOf = (name: string): string => name.slice(0, name.lastIndexOf('/') + 1);
const withoutExtension = (name: string): string => name.replace(/\.[^./]*$/, '');

/** Where VirtualBox keeps the settings: named after the folder, or after the disk; above the folder `Snapshots`. */
function settingsNames(image: string): readonly string[] {
  const own = folderOf(image);
  const names = [`${withoutExtension(image)}.vbox`];
  for (const folder of [own, own.endsWith('/Snapshots/') ? own.slice(0, -'Snapshots/'.length) : '']) {
    const last = folder.split('/').at(-2);
    if (last !== undefined) names.push(`${folder}${last}.vbox`);
  }
  return [...new Set(names)];
}

/** The disk, or one that it stands inside of, has a key store. */
export function hasKeyStore(settings: string, uuid: string): boolean {
  const open: { keyed: boolean; wanted: boolean }[] = [];
  const tags = /<(\/?)(HardDisk|Property)\b([^<>]*?)(\/?)>/g;
  for (const [, closing, tag, attributes, empty] of settings.matchAll(tags)) {
    if (tag === 'Property') {
      const top = open.at(-1);
      if (top !== undefined && /\bname="CRYPT\/KeyStore"/.test(attributes!)) {
        top.keyed = true;
        if (top.wanted) return true;
      }
    } else if (closing === '/') open.pop();
    else {
      const keyed = open.at(-1)?.keyed ?? false;
      const wanted = attributes!.toLowerCase().includes(`uuid="{${uuid}}"`);
      if (wanted && keyed) return true;
      if (empty === '') open.push({ keyed, wanted });
    }
  }
  return false;
}

/** Name of the settings file that says so; null when there is none, or none of them lies where VirtualBox puts it. */
export async function encryptedBy(image: string, uuid: string, store: Store): Promise<string | null> {
  for (const name of settingsNames(image)) {
    try {
      await using source = await store.open(name);
      if (source.size > LARGEST) continue;
      const content = new Uint8Array(source.size);
      await source.read(content, 0);
      if (hasKeyStore(Buffer.from(content.buffer).toString('utf8'), uuid)) return name;
    } catch (error) {
      if (!(error instanceof ImageError) || error.fault !== 'not-found') throw error;
    }
  }
  return null;
}

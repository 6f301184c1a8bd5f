/** Extended attributes on their way out of a file system: within bounds, and in the forms that Linux shows. */
import type { VolumeSource } from './source.ts';

/** Of one node. Linux takes 64 KiB of names, and values of 64 KiB. */
const MOST = 4096;
const MOST_BYTES = 4_194_304;
const LONGEST_VALUE = 65_536;

export class XattrList {
  readonly found = new Map<string, Uint8Array>();
  readonly #source: VolumeSource;
  #bytes = 0;

  constructor(source: VolumeSource) {
    this.#source = source;
  }

  /** A name that is there already stays as it is. */
  add(name: string, value: Uint8Array): void {
    if (this.found.has(name)) return;
    this.#bytes += value.length;
    const sound = this.found.size < MOST && value.length <= LONGEST_VALUE && this.#bytes <= MOST_BYTES;
    this.#source.check(sound, 'extended attributes beyond all bounds');
    this.found.set(name, Uint8Array.from(value));
  }
}

/** Who an entry of an access list is about: a user, or a group, by number. */
const NUMBERED = new Set([2, 8]);
const NOBODY = 0xffff_ffff;
const LINUX_VERSION = 2;
const EXT_VERSION = 1;

export interface AclEntry {
  readonly tag: number;
  readonly permissions: number;
  readonly id: number;
}

/** `system.posix_acl_access` as getxattr(2) gives it: acl(5), linux/posix_acl_xattr.h. */
export function linuxAcl(entries: readonly AclEntry[]): Buffer {
  const out = Buffer.alloc(4 + entries.length * 8);
  out.writeUInt32LE(LINUX_VERSION, 0);
  for (const [i, { tag, permissions, id }] of entries.entries()) {
    out.writeUInt16LE(tag, 4 + i * 8);
    out.writeUInt16LE(permissions, 6 + i * 8);
    out.writeUInt32LE(NUMBERED.has(tag) ? id : NOBODY, 8 + i * 8);
  }
  return out;
}

/** ext keeps no number where there is none to keep. */
export function extAcl(source: VolumeSource, value: Buffer): Buffer {
  source.check(value.length >= 4 && value.readUInt32LE(0) === EXT_VERSION, 'an access list of an unknown form');
  const entries: AclEntry[] = [];
  for (let at = 4; at < value.length; ) {
    const tag = value.readUInt16LE(at);
    const numbered = NUMBERED.has(tag);
    entries.push({ tag, permissions: value.readUInt16LE(at + 2), id: numbered ? value.readUInt32LE(at + 4) : NOBODY });
    at += numbered ? 8 : 4;
  }
  return linuxAcl(entries);
}

/** XFS: a number of entries of 12 bytes. */
export function xfsAcl(source: VolumeSource, value: Buffer): Buffer {
  const count = value.length >= 4 ? value.readUInt32BE(0) : 0;
  source.check(value.length >= 4 + count * 12, 'an access list is too short');
  return linuxAcl(
    Array.from({ length: count }, (_, i) => ({
      tag: value.readUInt32BE(4 + i * 12),
      id: value.readUInt32BE(8 + i * 12),
      permissions: value.readUInt16BE(12 + i * 12),
    })),
  );
}

/** `.bml`: the project's own chained layers. See README.md; the specification is docs/format-bml.md. */
import type { Adapter, Confidence } from '../../src/base/contracts.ts';
import { consolidateBml, dropBml, heldTimes } from './consolidate.ts';
import { editKeys, listKeys } from './key-edit.ts';
import { openLuksImage } from './luks-image.ts';
import { PARTIAL } from './owner.ts';
import { openBml } from './read.ts';
import { SUPERBLOCKS } from './structs.ts';
import { hasMagic, hasTrailer } from './superblock.ts';
import { createBml } from './write.ts';

/** Damage to one copy of the superblock, or to both, must not make a restore point vanish. A layer under construction is none. */
function probe(head: Uint8Array, tail: Uint8Array, name: string): Confidence {
  if (name.endsWith(PARTIAL)) return 'no';
  if (SUPERBLOCKS.some(at => hasMagic(head.subarray(at)))) return 'certain';
  return hasTrailer(tail) ? 'maybe' : 'no';
}

export const bml: Adapter = {
  name: 'bml',
  title: 'bootmount layers',
  extensions: ['.bml'],
  supports: { differencing: true, encryption: true, compression: true, write: true },
  probe,
  open: openBml,
  create: (name, store, spec) => createBml(name, store, spec),
};

/** What consolidation and retention ask of a chained format. No key is used. */
export const bmlChain = { consolidate: consolidateBml, drop: dropBml, heldTimes };

/** The secrets of an encrypted set. */
export const bmlKeys = { list: listKeys, edit: editKeys };

/** A disk of a point as a LUKS image, without its key. */
export const bmlLuks = openLuksImage;

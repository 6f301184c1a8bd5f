/** `.bml`: the project's own chained layers. See README.md; the specification is docs/format-bml.md. */
import type { Adapter } from '../../src/base/contracts.ts';
import { consolidateBml, dropBml, heldTimes } from './consolidate.ts';
import { editKeys, listKeys } from './key-edit.ts';
import { PARTIAL } from './owner.ts';
import { openBml } from './read.ts';
import { hasMagic } from './superblock.ts';
import { createBml } from './write.ts';

export const bml: Adapter = {
  name: 'bml',
  title: 'bootmount layers',
  extensions: ['.bml'],
  supports: { differencing: true, encryption: true, compression: true, write: true },
  // A layer under construction is no backup yet.
  probe: (head, _tail, name) => (hasMagic(head) && !name.endsWith(PARTIAL) ? 'certain' : 'no'),
  open: openBml,
  create: (name, store, spec) => createBml(name, store, spec),
};

/** What consolidation and retention ask of a chained format. No key is used. */
export const bmlChain = { consolidate: consolidateBml, drop: dropBml, heldTimes };

/** The secrets of an encrypted set. */
export const bmlKeys = { list: listKeys, edit: editKeys };

/** `.bml`: the project's own chained layers. See README.md; the specification is docs/format-bml.md. */
import type { Adapter } from '../../src/base/contracts.ts';
import { openBml } from './read.ts';
import { hasMagic } from './superblock.ts';
import { createBml } from './write.ts';

export const bml: Adapter = {
  name: 'bml',
  title: 'bootmount layers',
  extensions: ['.bml'],
  supports: { differencing: true, encryption: true, compression: true, write: true },
  probe: (head, _tail, _name) => (hasMagic(head) ? 'certain' : 'no'),
  open: openBml,
  create: (name, store, spec) => createBml(name, store, spec),
};

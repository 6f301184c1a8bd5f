/** Extended attributes, which only files out of a backup have. */
import type { Node } from '../../base/contracts.ts';
import { ERRNO, IN, MAX_IO, REQUEST_HEADER } from './protocol.ts';
import { type Answer, entryOf, nodeOf, type Operation } from './session.ts';
import type { Slot } from './slot.ts';

/** `struct fuse_getxattr_in`: the room that the caller has; 0: it asks how much it takes. The name follows. */
const NAME_AT = REQUEST_HEADER + 8;

/** How much is there, or all of it. */
function given(slot: Slot, length: number, put: () => void): Answer {
  const room = slot.words[IN.BODY]!;
  if (length > MAX_IO) return -ERRNO.E2BIG;
  if (room === 0) {
    slot.bodyWords[0] = length;
    slot.bodyWords[1] = 0;
    return 8;
  }
  if (length > room) return -ERRNO.ERANGE;
  put();
  return length;
}

export const getxattr: Operation = (session, slot, got) => {
  const entry = entryOf(session, slot);
  if (entry === undefined) return -ERRNO.ESTALE;
  const name = Buffer.from(slot.bytes.subarray(NAME_AT, got - 1)).toString('latin1');
  // Asked for at every step of `ls -l`: what is known to have none is answered at once.
  const answer = (node: Node): Answer | Promise<Answer> => {
    if (node.xattrs === undefined || node.mayHave?.(name) === false) return -ERRNO.ENODATA;
    return node.xattrs().then(found => {
      const value = found.get(name);
      return value === undefined ? -ERRNO.ENODATA : given(slot, value.length, () => slot.body.set(value));
    });
  };
  const node = nodeOf(session, entry);
  return node instanceof Promise ? node.then(answer) : answer(node);
};

export const listxattr: Operation = (session, slot) => {
  const entry = entryOf(session, slot);
  if (entry === undefined) return -ERRNO.ESTALE;
  const answer = (node: Node): Answer | Promise<Answer> => {
    if (node.xattrs === undefined) return given(slot, 0, () => undefined);
    return node.xattrs().then(found => {
      const names = Buffer.from(Array.from(found.keys(), name => `${name}\0`).join(''), 'latin1');
      return given(slot, names.length, () => slot.body.set(names));
    });
  };
  const node = nodeOf(session, entry);
  return node instanceof Promise ? node.then(answer) : answer(node);
};

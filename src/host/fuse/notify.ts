/** What the kernel is told without having asked (`enum fuse_notify_code` of `include/uapi/linux/fuse.h`). */
import fs from 'node:fs';
import { ImageError } from '../../base/errors.ts';
import type { Name } from './nodes.ts';
import { NOTIFY_INVAL_ENTRY, NOTIFY_RESEND, putU64, REPLY_HEADER } from './protocol.ts';

/** Asks the kernel to send again every request that the earlier process did not answer. */
export function resend(fd: number): void {
  try {
    fs.writeSync(fd, new Uint8Array(Uint32Array.of(REPLY_HEADER, NOTIFY_RESEND, 0, 0).buffer));
  } catch (cause) {
    throw new ImageError(
      'unsupported',
      'this kernel cannot hand a mount over',
      {},
      { cause, hint: 'Linux 6.9 or newer' },
    );
  }
}

/** `struct fuse_notify_inval_entry_out`: u64 parent, u32 length of the name, u32 flags; then the name and a zero. */
function staleName({ parent, name }: Name): Uint8Array {
  const text = new TextEncoder().encode(name);
  const message = new Uint8Array(REPLY_HEADER + 16 + text.length + 1);
  const words = new Uint32Array(message.buffer, 0, 8);
  words.set([message.length, NOTIFY_INVAL_ENTRY, 0, 0]);
  putU64(words, 4, parent);
  words[6] = text.length;
  message.set(text, REPLY_HEADER + 16);
  return message;
}

/**
 * The kernel asks anew for each of these names. One after the other, in the thread pool: a write waits while a request
 * for something in the same folder is unanswered. What the kernel does not know any more is an error that means nothing,
 * and without any of this it would ask soon enough.
 */
export function invalidate(fd: number, names: readonly Name[]): void {
  const next = (index: number): void => {
    if (index < names.length) fs.write(fd, staleName(names[index]!), () => next(index + 1));
  };
  next(0);
}

/** The default host: the kernel's own protocol, from one thread. */
import fs from 'node:fs';
import path from 'node:path';
import type { Host } from '../../base/contracts.ts';
import { isOrdinaryUser } from './fusermount.ts';
import { openFuse, readFurtherAhead, unmount } from './mount.ts';
import { serveFuse } from './serve.ts';

export type { Connection } from './journal.ts';
export { isDead, type Mount, mountsOf, openFuse, readFurtherAhead, unmount } from './mount.ts';
export { type ServeOptions, type Serving, serveFuse } from './serve.ts';

/**
 * Serves in the calling thread, without ever blocking it. The caller must not touch the mount synchronously: it would
 * wait for itself. Disposing fails with 'busy' while files are open.
 */
export const fuseHost: Host = {
  name: 'fuse',
  async mount(root, at, options) {
    const fd = openFuse(at, options);
    const full = path.resolve(at);
    const ready = Promise.withResolvers<void>();
    const hideOwners = isOrdinaryUser() && options.allowOther;
    const serving = serveFuse(fd, root, { onInit: () => ready.resolve(), mailbox: () => true, hideOwners });
    const ended = serving.ended.finally(() => fs.closeSync(fd));
    await Promise.race([ready.promise, ended]);
    readFurtherAhead(full);
    let gone = false;
    const over = ended.finally(() => {
      gone = true;
    });
    over.catch(() => undefined);
    return {
      ended: over,
      async [Symbol.asyncDispose]() {
        if (!gone) await unmount(full);
        await over;
      },
    };
  },
};

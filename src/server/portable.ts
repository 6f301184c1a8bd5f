/**
 * The server for the portable transport: one process, since libfuse keeps the connection to itself. When it is killed
 * the mount is dead; the next `mount` heals it, and clones hold every write that was acknowledged.
 */
import fs from 'node:fs';
import type { Mounted } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { unmount } from '../host/fuse/mount.ts';
import { fuseNativeHost } from '../host/fuse-native.ts';
import { type Control, serveControl } from './control.ts';
import { runPaths } from './paths.ts';
import type { ControlRequest, MountConfig, MountStatus, Prepared } from './protocol.ts';
import { openStack, type Stack } from './stack.ts';
import { log, serveFor } from './starter.ts';

class PortableServer {
  readonly #config: MountConfig;
  #stack: Stack | undefined;
  #mounted: Mounted | undefined;
  #control: Control | undefined;

  constructor(config: MountConfig) {
    this.#config = config;
  }

  async start(): Promise<Prepared> {
    const { mountpoint, repo, allowOther, options } = this.#config;
    const run = runPaths(mountpoint);
    fs.mkdirSync(run.folder, { recursive: true, mode: 0o700 });
    const stack = await openStack(this.#config);
    this.#stack = stack;
    this.#mounted = await fuseNativeHost.mount(stack.root, mountpoint, { fsname: repo, allowOther, extra: options });
    this.#mounted.ended.then(
      () => this.#finish(),
      error => log(`the mount ended with an error: ${error instanceof Error ? error.message : String(error)}`),
    );
    this.#control = serveControl(run.socket, request => this.#answer(request));
    await this.#control.ready;
    return stack.summary;
  }

  async #finish(): Promise<void> {
    let code = 0;
    try {
      await this.#stack![Symbol.asyncDispose]();
    } catch (error) {
      log(`closing failed: ${error instanceof Error ? error.message : String(error)}`);
      code = 1;
    }
    await this.#control?.[Symbol.asyncDispose]();
    fs.rmSync(runPaths(this.#config.mountpoint).folder, { recursive: true, force: true });
    process.exit(code);
  }

  async #answer(request: ControlRequest): Promise<unknown> {
    const stack = this.#stack!;
    switch (request.verb) {
      case 'umount':
        return this.umount(request.force);
      case 'upgrade':
        return this.upgrade();
      case 'status':
        return this.#status(stack);
      case 'clone':
        return stack.makeClone(request.request);
      case 'clone-delete':
        return stack.clones.remove(request.name);
      case 'clone-reset':
        return stack.clones.reset(request.name);
    }
  }

  #status(stack: Stack): MountStatus {
    const { mountpoint, repo, state } = this.#config;
    const { clones, cache, unpacking } = stack.status();
    const pid = process.pid;
    return {
      mount: mountpoint,
      repo,
      state,
      supervisor: { pid },
      worker: { pid, restarts: 0 },
      clones,
      cache,
      unpacking,
    };
  }

  async upgrade(): Promise<void> {
    throw new ImageError(
      'unsupported',
      'the portable transport cannot hand its connection over',
      {},
      { hint: 'umount, then mount again' },
    );
  }

  async umount(force: boolean): Promise<void> {
    await this.#stack!.clones.flush();
    await unmount(this.#config.mountpoint, { lazy: force });
    if (!force) await this.#mounted!.ended;
  }
}

serveFor(config => new PortableServer(config));

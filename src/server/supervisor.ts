/**
 * The supervisor: a small process that holds the FUSE connection for as long as the mount lives. It parses no backup.
 * When the worker dies another one takes over the same connection, and the kernel repeats what was not answered.
 *
 * Started by `mount` with an IPC channel: gets one MountConfig, answers once, and goes on by itself.
 */
import fs from 'node:fs';
import { setTimeout as after } from 'node:timers/promises';
import { ImageError } from '../base/errors.ts';
import { isOrdinaryUser } from '../host/fuse/fusermount.ts';
import {
  abortConnection,
  mountAsUser,
  mountFuse,
  openFuseDevice,
  readFurtherAhead,
  unmount,
} from '../host/fuse/mount.ts';
import type { BLAME } from '../host/fuse/suspects.ts';
import { type Control, serveControl } from './control.ts';
import { runPaths } from './paths.ts';
import type { ControlRequest, MountConfig, MountStatus, Prepared, WorkerPrepared, WorkerStatus } from './protocol.ts';
import { log, serveFor } from './starter.ts';
import { watchOver } from './watch.ts';
import { type Exit, WorkerLink } from './worker-link.ts';

/** So many workers in a row that died before they had served for a moment, and the connection is given up. */
const MAX_FAILURES = 10;
const BUSY_TRIES = 8;
const BUSY_WAIT_MS = 50;
/** What counts as having served, in ms. */
const A_MOMENT = 200;
/** The wait before a worker that follows one which failed: nothing after the first, then doubling. In ms. */
const backOff = (failures: number): number => (failures < 2 ? 0 : Math.min(5000, 50 * 2 ** failures));
/** So many workers that crashed after they had served, each within `CRASH_MEMORY_MS` of the one before, and it is given up. */
const MAX_CRASHES = 100;
const CRASH_MEMORY_MS = 60_000;
/** So many workers that hung, each within `HANG_MEMORY_MS` of the one before, and the connection is given up. */
const MAX_HANGS = 3;
const HANG_MEMORY_MS = 300_000;

/** Somebody's `stat` holds a mount for a moment. */
async function unmountPatiently(mountpoint: string, lazy: boolean): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      await unmount(mountpoint, { lazy });
      return;
    } catch (error) {
      if (!(error instanceof ImageError) || error.fault !== 'busy' || tries >= BUSY_TRIES) throw error;
      await after(BUSY_WAIT_MS);
    }
  }
}

class Supervisor {
  readonly #config: MountConfig;
  readonly #fuseFd: number;
  readonly #mountedFirst: boolean;
  #worker: WorkerLink;
  #restarts = 0;
  #failures = 0;
  #hangs = 0;
  #lastHang = Number.NEGATIVE_INFINITY;
  /** The worker of the moment was killed because it hung. */
  #isHung = false;
  #crashes = 0;
  #lastCrash = Number.NEGATIVE_INFINITY;
  /** The kernel can hand the requests of a dead worker to the next one. */
  #survives = true;
  #servingSince = Number.POSITIVE_INFINITY;
  /** Resolves when the worker of the moment takes requests. */
  #ready: Promise<unknown> = Promise.resolve();
  #control: Control | undefined;
  #ending: Promise<void> | undefined;

  constructor(config: MountConfig) {
    this.#config = config;
    // An ordinary user gets the descriptor only together with the mount, which then waits for its first answer.
    const { mountpoint, allowOther, options, repo } = config;
    this.#mountedFirst = isOrdinaryUser();
    this.#fuseFd = this.#mountedFirst
      ? mountAsUser(mountpoint, { fsname: repo, allowOther, extra: options })
      : openFuseDevice();
    this.#worker = new WorkerLink(this.#fuseFd, config.mountpoint);
  }

  /** Resolves when the tree can be read. */
  async start(): Promise<Prepared> {
    const { mountpoint, allowOther, options, repo } = this.#config;
    const run = runPaths(mountpoint);
    fs.mkdirSync(run.folder, { recursive: true, mode: 0o700 });
    fs.rmSync(run.nodes, { force: true });
    let prepared: Prepared;
    try {
      prepared = await this.#prepare(this.#worker, false, next => {
        this.#worker = next;
      });
      if (!this.#mountedFirst) mountFuse(this.#fuseFd, mountpoint, { fsname: repo, allowOther, extra: options });
    } catch (error) {
      if (this.#mountedFirst) await unmount(mountpoint, { lazy: true }).catch(() => undefined);
      this.#worker.kill();
      fs.rmSync(run.folder, { recursive: true, force: true });
      throw error;
    }
    this.#watch();
    await this.#worker.ask({ verb: 'serve', blame: 'none' });
    this.#servingSince = performance.now();
    this.#control = serveControl(run.socket, request => this.#answer(request));
    await this.#control.ready;
    const { survives } = (await this.#worker.ask({ verb: 'status' })) as WorkerStatus;
    readFurtherAhead(mountpoint);
    this.#survives = survives !== false;
    if (this.#survives) return prepared;
    const warning = 'this kernel is older than Linux 6.9: a crash of the serving process ends the mount with errors';
    return { ...prepared, warnings: [...prepared.warnings, warning] };
  }

  /**
   * Prepares a worker that does not serve yet. One that had to translate the program would keep the translator in memory
   * (15 MiB): another one takes its place, which starts from what it left. Once, since there may be no place to leave it.
   */
  async #prepare(worker: WorkerLink, resume: boolean, replace: (next: WorkerLink) => void): Promise<Prepared> {
    const order = { verb: 'prepare', config: this.#config, resume } as const;
    const { translated, ...prepared } = (await worker.ask(order)) as WorkerPrepared;
    if (!translated) return prepared;
    worker.kill();
    await worker.exit;
    const next = new WorkerLink(this.#fuseFd, this.#config.mountpoint);
    replace(next);
    const { translated: _, ...again } = (await next.ask(order)) as WorkerPrepared;
    return again;
  }

  #watch(): void {
    const watched = this.#worker;
    watchOver(watched, this.#config.mountpoint, () => this.#hung(watched));
    // One that was replaced has nothing left to say.
    const ended = watched.exit.then(exit => (watched === this.#worker ? this.#ended(exit) : undefined));
    ended.catch(error => {
      log(`giving up: ${error instanceof Error ? error.message : String(error)}`);
      this.#giveUp();
    });
  }

  /** The next one starts when this one has been reaped: one that waits for a device does not die before that is over. */
  #hung(worker: WorkerLink): void {
    const now = performance.now();
    this.#hangs = now - this.#lastHang > HANG_MEMORY_MS ? 1 : this.#hangs + 1;
    this.#lastHang = now;
    log(`the worker hangs while requests wait: it is killed (${this.#hangs} of ${MAX_HANGS + 1})`);
    this.#isHung = worker === this.#worker;
    worker.kill();
  }

  /** A worker that ends itself, or that its own code or memory ends, does not do so by SIGKILL. */
  #blame({ signal }: Exit): keyof typeof BLAME {
    if (signal === 'SIGKILL' && !this.#isHung) return 'kill';
    const now = performance.now();
    this.#crashes = now - this.#lastCrash > CRASH_MEMORY_MS ? 1 : this.#crashes + 1;
    this.#lastCrash = now;
    this.#isHung = false;
    return 'crash';
  }

  async #ended({ code, signal }: Exit): Promise<void> {
    if (code === 0) return this.#finish(0);
    if (!this.#survives) throw new Error('the worker died, and this kernel cannot hand its requests to another');
    const served = this.#worker.proven || performance.now() - this.#servingSince > A_MOMENT;
    this.#failures = served ? 0 : this.#failures + 1;
    log(`the worker ended (${signal ?? `exit ${code}`})${served ? '' : `, failure ${this.#failures} in a row`}`);
    if (this.#failures > MAX_FAILURES) throw new Error('the worker dies again and again');
    if (this.#hangs > MAX_HANGS) throw new Error('the worker hangs again and again');
    const blame = this.#blame({ code, signal });
    if (this.#crashes > MAX_CRASHES) throw new Error('the worker crashes again and again');
    this.#restarts++;
    this.#servingSince = Number.POSITIVE_INFINITY;
    this.#ready = after(backOff(this.#failures)).then(() => this.#resume(blame));
    // A worker that dies before it is ready is noticed by its end.
    await this.#ready.catch(() => undefined);
  }

  async #resume(blame: keyof typeof BLAME): Promise<void> {
    this.#worker = new WorkerLink(this.#fuseFd, this.#config.mountpoint);
    this.#watch();
    await this.#worker.ask({ verb: 'prepare', config: this.#config, resume: true });
    await this.#takeOver(blame);
  }

  async #takeOver(blame: keyof typeof BLAME): Promise<void> {
    await this.#worker.ask({ verb: 'serve', blame });
    this.#servingSince = performance.now();
    log('a new worker serves the mount');
  }

  /** Another worker, of the program as it is on disk now. One that cannot take over is dropped, and the old one stays. */
  async upgrade(): Promise<void> {
    await this.#ready;
    let next = new WorkerLink(this.#fuseFd, this.#config.mountpoint);
    const prepared = this.#prepare(next, true, its => {
      next = its;
    });
    const swapped = prepared.then(async () => {
      const old = this.#worker;
      // Never two at once: the next one touches overlays only when the old one has been reaped.
      this.#worker = next;
      old.kill();
      await old.exit;
      this.#watch();
      await this.#takeOver('none');
    });
    this.#ready = swapped.catch(() => undefined);
    await swapped.catch(error => {
      next.kill();
      throw error;
    });
  }

  /** Callers that wait get an error at once. */
  #giveUp(): void {
    try {
      abortConnection(this.#config.mountpoint);
    } catch (error) {
      // Then it ends with the last process that holds it, which is this one.
      log(`the connection cannot be aborted: ${error instanceof Error ? error.message : String(error)}`);
    }
    this.#worker.kill();
    unmount(this.#config.mountpoint, { lazy: true })
      .finally(() => this.#finish(1))
      .catch(() => process.exit(1));
  }

  async #finish(code: number): Promise<void> {
    await this.#control?.[Symbol.asyncDispose]();
    fs.rmSync(runPaths(this.#config.mountpoint).folder, { recursive: true, force: true });
    process.exit(code);
  }

  async #answer(request: ControlRequest): Promise<unknown> {
    if (request.verb === 'umount') return this.umount(request.force);
    if (request.verb === 'upgrade') return this.upgrade();
    await this.#ready;
    const value = await this.#worker.ask(request);
    return request.verb === 'status' ? this.#status(value as WorkerStatus) : value;
  }

  #status({ clones, cache, unpacking }: WorkerStatus): MountStatus {
    const { mountpoint, repo, state } = this.#config;
    return {
      mount: mountpoint,
      repo,
      state,
      supervisor: { pid: process.pid },
      worker: { pid: this.#worker.pid, restarts: this.#restarts },
      clones,
      cache,
      unpacking,
    };
  }

  /** Makes everything durable, then lets go. Busy: says by whom, and goes on serving. */
  umount(force: boolean): Promise<void> {
    this.#ending ??= this.#umount(force).catch(error => {
      this.#ending = undefined;
      throw error;
    });
    return this.#ending;
  }

  async #umount(force: boolean): Promise<void> {
    const { mountpoint } = this.#config;
    await this.#ready;
    await this.#worker.ask({ verb: 'flush' });
    await this.#worker.quiet();
    await unmountPatiently(mountpoint, force);
    // With `force` the kernel ends the connection when the last file is closed.
    if (!force) await this.#worker.exit;
  }
}

serveFor(config => new Supervisor(config));

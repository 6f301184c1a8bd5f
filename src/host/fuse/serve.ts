/**
 * The serving loop: one thread reads requests from the kernel, asks the tree and answers.
 *
 * While nothing is pending it blocks in `readSync`: a request that the tree answers at once costs two system calls and
 * no promise. While something is pending the event loop has to turn, so requests are then read through the thread pool.
 * A read that waits in the pool cannot be taken back; it ends with the next request, and only then is blocking resumed,
 * since a blocked thread could not see what the pool has read.
 */
import fs from 'node:fs';
import { endianness } from 'node:os';
import type { DirNode } from '../../base/contracts.ts';
import { errnoOf, ImageError } from '../../base/errors.ts';
import type { Connection } from './journal.ts';
import { Table } from './nodes.ts';
import { invalidate, resend } from './notify.ts';
import { operate } from './operate.ts';
import { ERRNO, IN, MAX_IO, OPCODE, REPLY_HEADER, REQUEST_HEADER, RESENT_BIT } from './protocol.ts';
import { type Answer, describe, NO_REPLY, reopen, type Session, uniqueOf } from './session.ts';
import { type Slot, type SlotPool, slotPool } from './slot.ts';
import { ReplyPipe } from './splice.ts';
import { Suspects } from './suspects.ts';
import { Waiting } from './waiting.ts';

export interface ServeOptions {
  /** Where node ids and open handles are recorded, so that another process can go on. */
  readonly nodesFile?: string;
  /** Called when the kernel has agreed (or, with `resume`, did so earlier): the tree can be read now. */
  onInit?(connection: Connection): void;
  /** Files out of a backup belong to the user of the mount, not to whom they belonged: where the kernel checks, it could not read them. */
  readonly hideOwners?: boolean;
  /** Go on for an earlier process on the same descriptor; needs its `nodesFile`. */
  readonly resume?: boolean;
  /** With `resume`: points for the requests that the earlier process had in hand when it ended (`suspects.ts`). */
  readonly blame?: number;
  /** Called when a request is answered with an error because processes die of it; says which one it is. */
  onRefused?(request: string): void;
  /**
   * Called when a request comes that earlier processes died of, or may have. What is decoded ahead of requests from then on
   * could end this process too, and somebody else's request would be blamed for it.
   */
  onSuspect?(): void;
  /** Called when a request is answered with EIO, EACCES, ENOSPC or EROFS, of which the caller learns no more than that. */
  onError?(request: string, error: unknown): void;
  /**
   * Called before the thread would block. While it returns true the thread never does, so that timers and promises of
   * others proceed. Whoever wants attention asks the mount for its statistics: after a STATFS the event loop turns, so
   * that a message which was sent before is received, and then this is called.
   */
  mailbox?(): boolean;
}

export interface Serving {
  /** Resolves when the mount is gone and every file is closed. Rejects when serving had to stop, or a file did not close. */
  readonly ended: Promise<void>;
  /** Requests that were answered so far. */
  readonly answered: number;
}

/** Requests that can wait for the tree at the same time; the kernel keeps the rest. */
const SLOTS = 40;
/** Reads of the next request that wait in the thread pool, each on a thread of its own. */
const POOL_READS = 2;
/** Longest time in ms without a turn of the event loop while requests keep coming; while none come, it does not turn. */
const LONGEST_BLOCKING = 5;

const TOLD: ReadonlySet<number> = new Set([ERRNO.EIO, ERRNO.EACCES, ERRNO.ENOSPC, ERRNO.EROFS]);

const codeOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? '';
/** ENOENT: the request was interrupted before it was read. */
const isPassing = (code: string): boolean => code === 'EINTR' || code === 'EAGAIN' || code === 'ENOENT';
const isEnd = (code: string): boolean => code === 'ENODEV' || code === 'ECONNABORTED' || code === 'ENOTCONN';

const failed = (what: string, cause: unknown): ImageError =>
  new ImageError('io', `${what} failed (${codeOf(cause) || String(cause)})`, { file: '/dev/fuse' }, { cause });

function begin(fd: number, root: DirNode, options: ServeOptions): Session {
  if (endianness() !== 'LE') throw new ImageError('unsupported', 'FUSE is spoken on little-endian machines only');
  const resume = options.resume === true;
  if (resume && options.nodesFile === undefined) throw new TypeError('resume needs nodesFile');
  const table = resume ? Table.resumed(root, options.nodesFile!) : Table.fresh(root, options.nodesFile);
  return {
    root,
    table,
    uid: process.getuid?.() ?? 0,
    gid: process.getgid?.() ?? 0,
    owners: options.hideOwners !== true,
    pipe: ReplyPipe.open(fd),
    onInit: connection => options.onInit?.(connection),
  };
}

/**
 * Serves `root` on `fd`, a mounted descriptor of `/dev/fuse`, from the calling thread. Nothing blocks before the first
 * request; from then on, unless `mailbox` says otherwise, this thread belongs to the mount.
 */
export function serveFuse(fd: number, root: DirNode, options: ServeOptions = {}): Serving {
  const session = begin(fd, root, options);
  if (options.resume === true) {
    resend(fd);
    // Not awaited: the kernel lets go of a name once the requests for it are answered, which are answered here.
    invalidate(fd, [...session.table.links()]);
    // Claimed in the old order before anybody else can open them; a failure shows at the handle's first use.
    for (const handle of session.table.handles()) reopen(session, handle).catch(() => undefined);
    const connection = session.table.connection;
    if (connection !== null) options.onInit?.(connection);
  }
  const suspects =
    options.nodesFile === undefined ? null : new Suspects(`${options.nodesFile}.held`, options.blame ?? 0);
  return new Loop(fd, session, suspects, options);
}

class Loop implements Serving {
  readonly ended: Promise<void>;
  answered = 0;
  readonly #fd: number;
  readonly #session: Session;
  readonly #suspects: Suspects | null;
  readonly #options: ServeOptions;
  readonly #slots: SlotPool;
  readonly #waiting: Waiting;
  readonly #settle: { resolve(): void; reject(error: unknown): void };
  /** Requests that were read and not answered yet. */
  #pending = 0;
  /** Reads that wait in the thread pool. */
  #reading = 0;
  /** A request that is suspected is served alone; these came meanwhile. */
  #alone = false;
  readonly #held: { readonly slot: Slot; readonly got: number }[] = [];
  #turning = false;
  #over = false;
  #closing = false;
  #failure: unknown = null;

  constructor(fd: number, session: Session, suspects: Suspects | null, options: ServeOptions) {
    this.#fd = fd;
    this.#session = session;
    this.#suspects = suspects;
    this.#options = options;
    // What an earlier process agreed on holds for the life of the mount.
    this.#slots = slotPool(SLOTS, Math.max(MAX_IO, session.table.connection?.maxIo ?? 0));
    this.#waiting = new Waiting(fd);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.ended = promise;
    this.#settle = { resolve, reject };
    this.#arm();
  }

  /**
   * Lets the event loop turn once, microtasks included, and decides then how to read on. Blocking begins only here, in
   * the phase after the one that receives: a turn from there comes through all phases.
   */
  #turn(): void {
    if (this.#turning) return;
    this.#turning = true;
    setImmediate(() => {
      this.#turning = false;
      this.#next();
    });
  }

  #next(): void {
    if (this.#over) this.#finish();
    else if (this.#pending > 0 || this.#wanted()) this.#arm();
    else if (this.#reading === 0) this.#block();
  }

  #wanted(): boolean {
    return this.#options.mailbox?.() === true;
  }

  /** Reads in the pool. With no slot left nothing is read until a request is answered. */
  #arm(): void {
    while (this.#reading < POOL_READS && !this.#alone) {
      const slot = this.#slots.take();
      if (slot === null) return;
      this.#reading++;
      fs.read(this.#fd, slot.bytes, 0, slot.bytes.length, null, (error, got) => {
        this.#reading--;
        if (error !== null) this.#unread(slot, error);
        else if (this.#receive(slot, got)) this.#slots.give(slot);
        this.#turn();
      });
    }
  }

  #block(): void {
    const slot = this.#slots.take();
    if (slot === null) throw new Error('nothing is pending, and yet no slot is free');
    this.#waiting.begin();
    const until = performance.now() + LONGEST_BLOCKING;
    let [first, now, requests] = [0, 0, 0];
    let mine = true;
    while (mine) {
      let got = 0;
      try {
        this.#waiting.wait();
        got = fs.readSync(this.#fd, slot.bytes, 0, slot.bytes.length, null);
      } catch (error) {
        if (isPassing(codeOf(error))) continue;
        this.#unread(slot, error);
        break;
      }
      this.#waiting.took();
      mine = this.#receive(slot, got);
      now = performance.now();
      if (requests++ === 0) first = now;
      if (this.#over || slot.words[IN.OPCODE] === OPCODE.statfs || now > until || this.#wanted()) {
        if (mine) this.#slots.give(slot);
        break;
      }
    }
    this.#waiting.end(requests - 1, now - first, slot.words[IN.PID]!);
    this.#turn();
  }

  #unread(slot: Slot, error: unknown): void {
    this.#slots.give(slot);
    const code = codeOf(error);
    if (isPassing(code)) return;
    if (!isEnd(code)) this.#failure ??= failed('reading a request', error);
    this.#over = true;
  }

  /** true: the slot is free. */
  #receive(slot: Slot, got: number): boolean {
    if (this.#alone) {
      this.#held.push({ slot, got });
      return false;
    }
    const again = this.#suspects !== null && got >= REQUEST_HEADER && slot.words[IN.UNIQUE + 1]! >= RESENT_BIT;
    return again ? this.#answerAgain(this.#suspects!, slot, got) : this.#answer(slot, got, null);
  }

  /** What an earlier process did not answer, perhaps because it died of it. */
  #answerAgain(suspects: Suspects, slot: Slot, got: number): boolean {
    const unique = uniqueOf(slot);
    const judged = suspects.judge(unique);
    if (judged !== 'as any') this.#options.onSuspect?.();
    if (judged === 'refused') {
      this.#options.onRefused?.(describe(this.#session, slot));
      this.#reply(slot, -ERRNO.EIO);
      return true;
    }
    suspects.begun(unique);
    this.#alone = judged === 'alone';
    const free = this.#answer(slot, got, () => {
      suspects.answered(unique);
      this.#release();
    });
    if (free) {
      suspects.answered(unique);
      this.#alone = false;
    }
    return free;
  }

  #release(): void {
    if (!this.#alone) return;
    this.#alone = false;
    for (let next = this.#held.shift(); next !== undefined; next = this.#alone ? undefined : this.#held.shift())
      if (this.#receive(next.slot, next.got)) this.#slots.give(next.slot);
    this.#turn();
  }

  /**
   * Answers, now (true: the slot is free) or later, and then calls `ended`. The only place where a request becomes an answer, and once.
   */
  #answer(slot: Slot, got: number, ended: (() => void) | null): boolean {
    let answer: Answer | Promise<Answer>;
    this.#session.table.settle();
    try {
      if (got < REQUEST_HEADER || slot.words[IN.LENGTH] !== got) throw new Error('a request is cut off');
      answer = operate(this.#session, slot, got);
    } catch (error) {
      answer = this.#failed(slot, error);
    }
    if (typeof answer === 'number') {
      this.#reply(slot, answer);
      return true;
    }
    this.#pending++;
    answer
      .catch(error => this.#failed(slot, error))
      .then(late => {
        this.#reply(slot, late);
        this.#slots.give(slot);
        this.#pending--;
        ended?.();
        // All slots were in use, and nobody else reads on.
        if (this.#reading === 0) this.#turn();
      });
    return false;
  }

  #failed(slot: Slot, error: unknown): Answer {
    const errno = errnoOf(error);
    if (TOLD.has(errno)) this.#options.onError?.(describe(this.#session, slot), error);
    return -errno;
  }

  #reply(slot: Slot, answer: Answer): void {
    this.answered++;
    if (answer === NO_REPLY) return;
    slot.head(answer < 0 ? -answer : 0, Math.max(0, answer));
    try {
      fs.writeSync(this.#fd, slot.bytes, slot.replyAt, REPLY_HEADER + Math.max(0, answer));
    } catch (error) {
      const code = codeOf(error);
      // ENOENT: the caller was interrupted and waits no more.
      if (code === 'ENOENT' || isEnd(code)) return;
      // The kernel did not take this answer; it must get one all the same, or its caller hangs.
      if (answer !== -ERRNO.EIO) this.#reply(slot, -ERRNO.EIO);
      else {
        this.#failure ??= failed('answering a request', error);
        this.#over = true;
      }
    }
  }

  /** Closes what is open once nothing is under way. */
  #finish(): void {
    if (this.#pending > 0 || this.#reading > 0 || this.#closing) return;
    this.#closing = true;
    this.#close().then(
      () => (this.#failure === null ? this.#settle.resolve() : this.#settle.reject(this.#failure)),
      error => this.#settle.reject(this.#failure ?? error),
    );
  }
  async #close(): Promise<void> {
    const { table } = this.#session;
    const closed = [...table.handles()].map(async handle => {
      await handle.opening?.catch(() => undefined);
      await handle.file?.[Symbol.asyncDispose]();
    });
    const results = await Promise.allSettled(closed);
    table.end();
    this.#session.pipe?.close();
    this.#suspects?.close();
    const broken = results.find(result => result.status === 'rejected');
    if (broken !== undefined) throw broken.reason;
  }
}

/**
 * The program's side of the parser child: starts it when it is first needed, reads the disks for it, and holds it to its
 * limits. When it dies, what it was asked is asked again, one at a time: what kills it then fails, and nothing else.
 *
 * Every request is a pending answer of the serving loop, which therefore turns while the child works.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Disk } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { FRUGAL_MALLOC } from '../base/malloc.ts';
import { makeLittleGarbage } from './garbage.ts';
import { confined, limitMemory, TRANSLATED, TRANSLATED_EXIT, tied } from './limits.ts';
import { type DiskSpec, type FailureRecord, type FromChild, failureOf, type ToChild, type Work } from './protocol.ts';

const CHILD = fileURLToPath(new URL('./child.ts', import.meta.url));
const SOURCES = fileURLToPath(new URL('../..', import.meta.url));

export interface ParserLimits {
  /** Bytes beyond what Node itself takes, and how many MiB of them JavaScript's heap may be. */
  readonly memory: number;
  readonly heap: number;
  /** How long in ms it may compute without asking for anything. */
  readonly silence: number;
  /** How long in ms one request may take, the reads of the disk not counted. */
  readonly total: number;
}

const LIMITS: ParserLimits = { memory: 201_326_592, heap: 160, silence: 10_000, total: 120_000 };
/** The longest stretch of a disk that a reader asks for at once. */
const LONGEST_READ = 67_108_864;
const CHECK_MS = 250;

/** What unlocking may take beside: LUKS2 asks for up to 1 GiB, by its header. */
const UNLOCKING = 1_342_177_280;

export interface DeclaredDisk {
  readonly name: string;
  /** Told of every stretch that is read for the parser. */
  seen?(at: number, length: number): void;
  /** Opened when it is first read. */
  open(): Promise<Disk>;
  readonly size: number;
  readonly sectorSize: 512 | 4096;
}

export interface ParserSpec {
  /** What the child runs; a test puts another one there. */
  readonly program?: string;
  readonly limits?: Partial<ParserLimits>;
  /** For encrypted volumes. */
  secrets?(): Promise<readonly Uint8Array[]>;
}

interface Group {
  readonly disks: readonly DeclaredDisk[];
  /** Stretches that a child died of. */
  readonly skip: Set<string>;
}

interface Job {
  readonly work: Work;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
  /** It was under way when a child died. */
  suspect: boolean;
  /** Ms that the child has had for it. */
  spent: number;
}

interface Child {
  readonly pid: number;
  readonly channel: ChildProcess;
  readonly declared: Set<number>;
  readonly running: Map<number, Job>;
  /** What is looked into at the moment, by group. */
  readonly opening: Map<number, string>;
  /** Reads of the disk that it waits for. */
  owed: number;
  heard: number;
  /** Why it was ended. */
  reason: string | null;
}

const failed = ({ fault, message, where }: FailureRecord): ImageError => new ImageError(fault, message, where);

/** Waits until a child can be asked; false: it ended, since the next one will take less memory. */
function isReady(channel: ChildProcess): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const lost = (cause: unknown): void => {
      if (cause === TRANSLATED_EXIT) resolve(false);
      else reject(new ImageError('io', 'the parser of file systems does not start', {}, { cause }));
    };
    channel.once('error', lost);
    channel.once('exit', lost);
    channel.once('message', () => {
      channel.off('error', lost);
      channel.off('exit', lost);
      resolve(true);
    });
  });
}

export class Parser implements AsyncDisposable {
  readonly #program: string;
  readonly #limits: ParserLimits;
  readonly #secrets: () => Promise<readonly Uint8Array[]>;
  readonly #groups = new Map<number, Group>();
  readonly #queue: Job[] = [];
  #starting: Promise<void> | null = null;
  #child: Child | null = null;
  #timer: NodeJS.Timeout | null = null;
  #lastGroup = 0;
  #lastId = 0;
  #closed = false;
  restarts = 0;

  constructor(spec: ParserSpec = {}) {
    this.#program = spec.program ?? CHILD;
    this.#limits = { ...LIMITS, ...spec.limits };
    this.#secrets = spec.secrets ?? (async () => []);
  }

  /** null while none runs. */
  get pid(): number | null {
    return this.#child?.pid ?? null;
  }

  /** A number for disks that belong together; nothing is read yet. */
  declare(disks: readonly DeclaredDisk[]): number {
    this.#groups.set(++this.#lastGroup, { disks, skip: new Set() });
    return this.#lastGroup;
  }

  forget(group: number): void {
    this.#groups.delete(group);
    if (this.#child?.declared.delete(group) === true) this.#send(this.#child, { forget: group });
  }

  ask(work: Work): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ work, resolve, reject, suspect: false, spent: 0 });
      this.#go();
    });
  }

  /** Starts the child, for whoever will probably ask soon. */
  warm(): void {
    if (this.#child !== null || this.#closed) return;
    this.#starting ??= this.#start().then(
      () => {
        this.#starting = null;
        this.#go();
      },
      error => {
        this.#starting = null;
        for (const { reject } of this.#queue.splice(0)) reject(error);
      },
    );
  }

  #go(): void {
    if (this.#queue.length === 0) return;
    if (this.#child === null) {
      this.warm();
      return;
    }
    const { running } = this.#child;
    while (this.#queue.length > 0) {
      const next = this.#queue[0]!;
      const alone = next.suspect || [...running.values()].some(job => job.suspect);
      if (alone && running.size > 0) return;
      this.#queue.shift();
      this.#give(this.#child, next);
    }
  }

  #give(child: Child, job: Job): void {
    const { group } = job.work;
    const its = this.#groups.get(group);
    if (its === undefined) {
      job.reject(new ImageError('not-found', 'these disks are closed'));
      return;
    }
    if (!child.declared.has(group)) {
      const disks: DiskSpec[] = its.disks.map(({ name, size, sectorSize }) => ({ name, size, sectorSize }));
      this.#send(child, { declare: group, disks, skip: [...its.skip] });
      child.declared.add(group);
    }
    const id = ++this.#lastId;
    if (child.running.size === 0) child.heard = performance.now();
    child.running.set(id, job);
    this.#send(child, { id, work: job.work });
    this.#timer ??= setInterval(() => this.#check(), CHECK_MS);
  }

  #fork(more: Readonly<Record<string, string>>): ChildProcess {
    const { flags, env } = confined(SOURCES);
    return fork(this.#program, {
      cwd: '/',
      env: { LC_ALL: 'C', ...FRUGAL_MALLOC, ...env, ...more },
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
      ...tied([...flags, `--max-old-space-size=${this.#limits.heap}`, '--max-semi-space-size=2']),
    });
  }

  async #start(): Promise<void> {
    if (this.#closed) throw new ImageError('io', 'the file systems are closed');
    makeLittleGarbage();
    const first = this.#fork({});
    const channel = (await isReady(first)) ? first : this.#fork({ [TRANSLATED]: '1' });
    const child: Child = {
      pid: channel.pid ?? 0,
      channel,
      declared: new Set(),
      running: new Map(),
      opening: new Map(),
      owed: 0,
      heard: performance.now(),
      reason: null,
    };
    if (channel !== first) await isReady(channel);
    const secrets = await this.#secrets();
    await limitMemory(child.pid, this.#limits.memory + (secrets.length > 0 ? UNLOCKING : 0));
    if (secrets.length > 0) this.#send(child, { secrets });
    channel.on('error', () => undefined);
    channel.on('message', (message: FromChild) => this.#heard(child, message));
    channel.once('exit', () => this.#ended(child));
    if (channel.exitCode !== null || channel.signalCode !== null) {
      throw new ImageError('io', 'the parser of file systems ended at once');
    }
    this.#child = child;
    channel.unref();
    channel.channel?.unref();
  }

  #send(child: Child, message: ToChild): void {
    // One that has died meanwhile is noticed by its end.
    if (child.channel.connected) child.channel.send(message, () => undefined);
  }

  #heard(child: Child, message: FromChild): void {
    child.heard = performance.now();
    if ('needs' in message) return void this.#read(child, message);
    if ('ready' in message) return;
    if ('opening' in message) {
      if (message.opening === null) child.opening.delete(message.group);
      else child.opening.set(message.group, message.opening);
      return;
    }
    const job = child.running.get(message.id);
    child.running.delete(message.id);
    if (child.running.size === 0) this.#rest();
    if (job !== undefined) {
      if ('failure' in message) job.reject(failed(message.failure));
      else job.resolve(message.value);
    }
    this.#go();
  }

  async #read(child: Child, needed: Extract<FromChild, { needs: number }>): Promise<void> {
    const { needs, group, disk, at, length } = needed;
    child.owed++;
    try {
      const its = this.#groups.get(group)?.disks[disk];
      if (its === undefined) throw new ImageError('not-found', 'these disks are closed');
      if (!(length <= LONGEST_READ)) throw new ImageError('corrupt', `${length} bytes of metadata in one piece`);
      const data = new Uint8Array(length);
      its.seen?.(at, length);
      await (await its.open()).read(data, at);
      this.#send(child, { answers: needs, data });
    } catch (error) {
      this.#send(child, { answers: needs, failure: failureOf(error, 'io') });
    } finally {
      child.owed--;
      child.heard = performance.now();
    }
  }

  /** Ends a child that computes without end; time in which it waits for the disk is not its own. */
  #check(): void {
    const child = this.#child;
    if (child === null || child.running.size === 0) {
      this.#rest();
      return;
    }
    if (child.owed > 0) return;
    for (const job of child.running.values()) job.spent += CHECK_MS;
    const silent = performance.now() - child.heard > this.#limits.silence;
    if (!silent && ![...child.running.values()].some(job => job.spent > this.#limits.total)) return;
    child.reason = 'it came to no end';
    child.channel.kill('SIGKILL');
  }

  #rest(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  #ended(child: Child): void {
    if (this.#child !== child) return;
    this.#child = null;
    this.#rest();
    this.restarts++;
    const lost = [...child.running.values()];
    // Whatever else may have killed it: who was alone is asked once more, unless it was seen to come to no end.
    const alone = lost.length === 1 ? lost[0]! : null;
    const guilty = alone !== null && (alone.suspect || child.reason !== null) ? alone : null;
    const opening = guilty === null ? undefined : child.opening.get(guilty.work.group);
    if (guilty !== null && opening !== undefined) {
      // A volume that cannot even be opened is left out; the others of the same disk are not to suffer.
      this.#groups.get(guilty.work.group)?.skip.add(opening);
      this.#queue.unshift({ ...guilty, suspect: true, spent: 0 });
    } else if (guilty !== null) {
      const why = child.reason ?? 'it crashed, or wanted too much memory';
      guilty.reject(new ImageError('corrupt', `the reader of this file system was stopped: ${why}`));
    } else {
      for (const job of lost) job.suspect = true;
      this.#queue.unshift(...lost);
    }
    if (this.#closed)
      for (const { reject } of this.#queue.splice(0)) reject(new ImageError('io', 'the file systems are closed'));
    else this.#go();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    await this.#starting?.catch(() => undefined);
    const child = this.#child;
    if (child === null) return;
    await new Promise<void>(resolve => {
      child.channel.ref();
      child.channel.once('exit', () => resolve());
      child.channel.kill('SIGKILL');
    });
  }
}

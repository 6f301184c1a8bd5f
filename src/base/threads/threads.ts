/** Threads that do one kind of work: started when there is some, given messages in turn, each answered by one in order. */
import os from 'node:os';
import { Worker } from 'node:worker_threads';
import { ImageError } from '../errors.ts';

/** What a thread says first. */
export const READY = 'ready';
/** Ends a thread when what it was told before is done. */
export const END = 'end';

interface Waiting<R> {
  readonly load: number;
  resolve(reply: R): void;
  reject(error: unknown): void;
}

export interface Thread<R> {
  readonly worker: Worker;
  /** It has started, which takes longer than a hundred blocks. */
  ready: boolean;
  /** Messages under way, oldest first. */
  readonly running: Waiting<R>[];
  /** What they weigh. */
  load: number;
}

export interface ThreadsSpec {
  readonly program: URL;
  /** For messages: "opens blocks". */
  readonly what: string;
  readonly data?: unknown;
  /** At most so many. */
  readonly most?: number;
}

export class Threads<M, R> {
  readonly most: number;
  readonly #spec: ThreadsSpec;
  readonly #threads: Thread<R>[] = [];

  constructor(spec: ThreadsSpec) {
    this.#spec = spec;
    this.most = spec.most ?? os.availableParallelism();
  }

  /** None has anything to do. */
  get idle(): boolean {
    return this.#threads.every(({ load }) => load === 0);
  }

  /** One has started. */
  get ready(): boolean {
    return this.#threads.some(({ ready }) => ready);
  }

  /** Has one started unless there are as many as there may be. */
  startOne(): void {
    if (this.#threads.length < this.most) this.#start();
  }

  /** The one that has started and has the least to do; another one is started when that is busy. */
  next(): Thread<R> {
    let best: Thread<R> | null = null;
    for (const thread of this.#threads) {
      const better = best === null || thread.ready === best.ready ? thread.load < (best?.load ?? 1) : thread.ready;
      if (best === null || better) best = thread;
    }
    if (best === null) return this.#start();
    if (best.load > 0) this.startOne();
    return best;
  }

  /** Rejects when the thread fails, or ends. */
  send(thread: Thread<R>, message: M, load: number): Promise<R> {
    return new Promise((resolve, reject) => {
      // First: what cannot be sent is not waited for.
      thread.worker.postMessage(message);
      thread.worker.ref();
      thread.load += load;
      thread.running.push({ load, resolve, reject });
    });
  }

  #start(): Thread<R> {
    const { program, what, data } = this.#spec;
    const worker = new Worker(program, { workerData: data });
    const thread: Thread<R> = { worker, ready: false, running: [], load: 0 };
    const fail = (error: unknown): void => {
      this.#forget(thread);
      for (const { reject } of thread.running.splice(0)) reject(error);
    };
    worker.on('message', (reply: R | typeof READY) => {
      // Also once it has started: what is said to a thread that is still starting does not last.
      if (reply === READY) thread.ready = true;
      else {
        const waiting = thread.running.shift();
        // It was given up meanwhile.
        if (waiting === undefined) return;
        thread.load -= waiting.load;
        waiting.resolve(reply as R);
      }
      // A thread that waits for work keeps nobody from ending; one whose end is waited for must.
      if (thread.running.length === 0 && this.#threads.includes(thread)) worker.unref();
    });
    const failed = (cause: Error): void => {
      fail(new ImageError('io', `a thread that ${what} failed: ${cause.message}`, {}, { cause }));
    };
    worker.on('error', cause => failed(cause as Error));
    // Without that answer the next ones would be taken for those to earlier messages.
    worker.on('messageerror', cause => {
      failed(cause as Error);
      void worker.terminate();
    });
    worker.on('exit', code => fail(new ImageError('io', `a thread that ${what} ended with code ${code}`)));
    // Only now: a listener for messages keeps the program running again.
    worker.unref();
    this.#threads.push(thread);
    return thread;
  }

  #forget(thread: Thread<R>): void {
    const at = this.#threads.indexOf(thread);
    if (at >= 0) this.#threads.splice(at, 1);
  }

  /** Resolves when all of them have ended, after what they had to do. */
  async end(): Promise<void> {
    await Promise.all(
      this.#threads.splice(0).map(({ worker }) => {
        const ended = new Promise(resolve => worker.once('exit', resolve));
        worker.ref();
        worker.postMessage(END);
        return ended;
      }),
    );
  }
}

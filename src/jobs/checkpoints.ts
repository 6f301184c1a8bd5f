/** Points of a restore up to which the file is durable, said so in the journal, and read back. */
import type { ByteFile, Bytes } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { deviceBytes } from '../base/shared-bytes.ts';
import { addWindows, CHECK_WINDOW, ContentCheck } from './content-check.ts';
import type { dataWindows, Watch } from './sparse.ts';

/** After so much the file is made durable and the journal says so: at most this is done again after a crash. */
const CHECKPOINT: Bytes = 256 * 2 ** 20;
const LANES = 2;

/** What is written so far, in order and without gaps. */
export interface Reached {
  readonly done: Bytes;
  /** Check value of what lies before `done`. */
  readonly content: string;
}

export interface CheckpointSpec {
  readonly file: ByteFile;
  /** Where writing begins. */
  readonly from: Bytes;
  save(reached: Reached): Promise<void>;
  /** Called when it is durable; null: nobody wants it read back. */
  readonly readBack: ((reached: Reached, watch: Watch) => Promise<void>) | null;
  readonly signal: AbortSignal;
}

/**
 * Reads what the file holds, from its start, and compares it piece by piece with what was written. `windows`: where the disk
 * may hold data; the rest was never written to.
 */
export function readerBack(
  file: ByteFile,
  windows: (from: Bytes, to: Bytes, signal: AbortSignal) => ReturnType<typeof dataWindows>,
  size: Bytes,
): (reached: Reached, watch: Watch) => Promise<boolean> {
  const check = new ContentCheck();
  let buffers: readonly Uint8Array[] = [];
  let read = 0;
  return async ({ done, content }, { signal, progress }) => {
    if (buffers.length === 0) buffers = Array.from({ length: LANES }, () => deviceBytes(Math.min(CHECK_WINDOW, size)));
    const from = windows(read, done, signal);
    await addWindows(
      check,
      from,
      buffers,
      (into, at) => file.read(into, at),
      end => progress(end, size),
    );
    read = done;
    return check.value() === content;
  };
}

/** One at a time: the file is made durable, the journal says so, and what came since the last one is read back meanwhile. */
export class Checkpoints {
  readonly #spec: CheckpointSpec;
  #reached: Bytes;
  #saving: Promise<void> = Promise.resolve();
  #checking: Promise<void> = Promise.resolve();
  #isBusy = false;
  #failure: { readonly reason: unknown } | null = null;

  constructor(spec: CheckpointSpec) {
    this.#spec = spec;
    this.#reached = spec.from;
  }

  /** The kernel tells of a write that failed once; a later answer that all is well would be wrong. */
  #throwIfFailed(): void {
    if (this.#failure !== null) throw this.#failure.reason;
  }

  async #keepFailure(work: Promise<void>): Promise<void> {
    try {
      await work;
    } catch (reason) {
      this.#failure ??= { reason };
      throw reason;
    }
  }

  async #save(reached: Reached): Promise<void> {
    this.#throwIfFailed();
    await this.#keepFailure(this.#spec.file.sync().then(() => this.#spec.save(reached)));
  }

  /** Resolves when everything before `done` is durable and the journal says so. */
  async now(reached: Reached): Promise<void> {
    await this.#saving;
    await this.#save(reached);
  }

  /** Begins one when enough was written since the last; everything before `done` is in the file. */
  begin(done: Bytes, content: () => string): void {
    this.#throwIfFailed();
    if (this.#isBusy || done - this.#reached < CHECKPOINT) return;
    [this.#isBusy, this.#reached] = [true, done];
    const reached = { done, content: content() };
    const { readBack, signal } = this.#spec;
    this.#saving = this.#save(reached);
    this.#checking = this.#saving
      .then(async () => readBack?.(reached, { signal, progress() {} }))
      .catch(reason => {
        // One that was called off says nothing about the file, which is kept.
        if (!signal.aborted) this.#failure ??= { reason };
      })
      .finally(() => {
        this.#isBusy = false;
      });
    this.#saving.catch(() => {});
  }

  /** The last one: durable, and all of it read back, when it resolves. */
  async end(reached: Reached, watch: Watch): Promise<void> {
    await this.#checking;
    await this.now(reached);
    await this.#spec.readBack?.(reached, watch);
  }

  /** Resolves when nothing is under way that uses the file. */
  async settle(): Promise<void> {
    await Promise.allSettled([this.#saving, this.#checking]);
  }
}

/** The file is not what was written to it. `at`: where it first differs. */
export const readBackError = (file: string, at: Bytes): ImageError =>
  new ImageError('corrupt', `read back, the disk differs from the restore point at guest offset ${at}`, { file });

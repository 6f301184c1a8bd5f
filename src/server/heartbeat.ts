/**
 * Whether the worker still works, judged once a second by what can be seen from outside. It is hung when requests wait
 * and it does nothing about them; a slow disk is not a hang, and another worker would wait for the same disk.
 */
import fs from 'node:fs';
import { connectionFolder, mountsOf } from '../host/fuse/mount.ts';

/** What is seen at one look. */
export interface Sight {
  /** Requests that the kernel has handed over or holds ready, and that have no answer. */
  readonly waiting: number;
  /** Beats heard from this worker so far: each says that its event loop has turned. */
  readonly beats: number;
  /** Requests that it had answered at its last beat. */
  readonly answered: number;
  /** Its serving thread: the state letter of proc(5), and processor time in ms. */
  readonly thread: { readonly state: string; readonly cpu: number };
  /** Some thread of it waits for a device (state D). */
  readonly device: boolean;
}

export type Verdict = 'works' | 'slow' | 'hung';

/** Looks in a row without a beat while requests wait, after which a thread counts as stuck: ten seconds. */
export const STUCK = 10;
/** Looks in a row without an answer while requests wait, although the event loop turns: somebody forgot a request. */
export const LOST = 120;
/** A thread that runs and got less processor time than this between two beats is starved, not stuck. In ms. */
const STARVED = 1000;

/**
 * Counts looks, not time: after the machine was asleep, or this process got no processor, one look more has passed.
 */
export class Heartbeat {
  #silent = 0;
  #unanswered = 0;
  #last: Sight | null = null;
  /** Processor time of the thread when it fell silent. */
  #cpu = 0;

  look(sight: Sight): Verdict {
    const last = this.#last;
    this.#last = sight;
    const idle = sight.waiting === 0 || last === null;
    if (idle || sight.beats !== last.beats) {
      this.#silent = 0;
      this.#cpu = sight.thread.cpu;
    } else this.#silent++;
    this.#unanswered = idle || sight.answered !== last.answered ? 0 : this.#unanswered + 1;
    if (this.#silent >= STUCK) return this.#judge(sight);
    if (this.#unanswered >= LOST) return sight.device ? 'slow' : 'hung';
    return 'works';
  }

  #judge({ thread }: Sight): Verdict {
    if (thread.state === 'D') return 'slow';
    return thread.state === 'R' && thread.cpu - this.#cpu < STARVED ? 'slow' : 'hung';
  }
}

const MS_PER_TICK = 10;

/** State and processor time of a thread from its `stat`; the name before them may hold anything. */
function threadOf(stat: string): Sight['thread'] {
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return { state: fields[0] ?? '', cpu: (Number(fields[11]) + Number(fields[12])) * MS_PER_TICK };
}

/** The serving thread of a process, and whether any thread of it waits for a device. Gone: null. */
export function threadsOf(pid: number): Pick<Sight, 'thread' | 'device'> | null {
  const at = `/proc/${pid}/task`;
  try {
    const thread = threadOf(fs.readFileSync(`${at}/${pid}/stat`, 'latin1'));
    const device = fs.readdirSync(at).some(id => threadOf(fs.readFileSync(`${at}/${id}/stat`, 'latin1')).state === 'D');
    return { thread, device };
  } catch {
    return null;
  }
}

/** Requests without an answer on the mount at `at`; null where the kernel's list of connections is not mounted. */
export function waitingAt(at: string): number | null {
  const mount = mountsOf(at).at(-1);
  if (mount === undefined) return 0;
  try {
    return Number(fs.readFileSync(`${connectionFolder(mount)}/waiting`, 'latin1'));
  } catch {
    return null;
  }
}

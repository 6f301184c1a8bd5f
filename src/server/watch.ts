/** Looks at a worker once a second for as long as it lives, and says when it hangs. */
import fs from 'node:fs';
import { Heartbeat, threadsOf, waitingAt } from './heartbeat.ts';
import { log } from './starter.ts';
import type { WorkerLink } from './worker-link.ts';

const LOOK_MS = 1000;

/** Where the kernel does not list its connections: a question to the mount is a request that waits, too. */
function askingFor(mountpoint: string): () => number {
  let asking = false;
  return () => {
    const waited = asking ? 1 : 0;
    if (!asking) {
      asking = true;
      fs.statfs(mountpoint, () => {
        asking = false;
      });
    }
    return waited;
  };
}

/** `hung` is called once at most. Until the worker's end somebody may wait for a device: that is logged, not judged. */
export function watchOver(worker: WorkerLink, mountpoint: string, hung: () => void): void {
  const heartbeat = new Heartbeat();
  const ask = askingFor(mountpoint);
  let [slow, over] = [false, false];
  const timer = setInterval(() => {
    const threads = threadsOf(worker.pid);
    if (threads === null) return;
    const waiting = waitingAt(mountpoint) ?? ask();
    const verdict = heartbeat.look({ ...threads, waiting, beats: worker.beats, answered: worker.answered });
    if (verdict === 'slow' && !slow) log('the worker waits for a device or for processor time; requests are waiting');
    slow = verdict === 'slow';
    if (verdict !== 'hung' || over) return;
    over = true;
    hung();
  }, LOOK_MS);
  timer.unref();
  worker.exit.finally(() => clearInterval(timer));
}

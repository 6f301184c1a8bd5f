/** The inside of a thread of `Threads`. */
import { parentPort } from 'node:worker_threads';
import { END, READY } from './threads.ts';

/** Answers every message with what `work` makes of it. */
export function serveThread<M, R>(work: (message: M) => R): void {
  const port = parentPort;
  if (port === null) return;
  port.on('message', (message: M | typeof END) => {
    if (message === END) port.close();
    else port.postMessage(work(message as M));
  });
  // It would never be answered: whoever waits for that is told when the thread ends.
  port.on('messageerror', error => {
    throw error;
  });
  port.postMessage(READY);
}

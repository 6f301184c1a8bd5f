/** The other thread of `waiting.ts`: sleeps at the device, or runs beside it, and takes nothing from it. */
import fs from 'node:fs';
import os from 'node:os';
import { workerData } from 'node:worker_threads';
import { native } from '../../base/native.ts';
import { AWAKE, type CompanyOf, RUNS, SERVED, SLEEPS, THERE, WANTED } from './waiting.ts';

/** POLLERR, POLLHUP, POLLNVAL: the mount is gone. */
const GONE = 8 + 16 + 32;
/** So long it stays awake without a request being served, in ms. */
const PATIENCE = 0.2;
/** Whoever else wants the processor comes first. */
const LAST = 19;

const { fd, state } = workerData as CompanyOf;
const poll = native()!.poller(fd);

/** Keeps its processor awake while requests come one after the other. */
function stayAwake(): void {
  let served = -1;
  let since = 0;
  while (Atomics.load(state, WANTED) === AWAKE) {
    const now = performance.now();
    const count = Atomics.load(state, SERVED);
    if (count !== served) [served, since] = [count, now];
    if (now - since < PATIENCE) continue;
    Atomics.store(state, RUNS, 0);
    Atomics.wait(state, SERVED, served);
    Atomics.store(state, RUNS, 1);
  }
}

/** false: the mount is gone. */
function keep(): boolean {
  if (Atomics.load(state, WANTED) === SLEEPS) return (poll(-1) & GONE) === 0;
  Atomics.store(state, RUNS, 1);
  stayAwake();
  Atomics.store(state, RUNS, 0);
  return true;
}

try {
  os.setPriority(0, LAST);
} catch {
  // Then it has the priority of the others.
}
// PID/task/THREAD
Atomics.store(state, THERE, Number(fs.readlinkSync('/proc/thread-self').split('/').at(-1)));
do Atomics.wait(state, WANTED, 0);
while (keep());

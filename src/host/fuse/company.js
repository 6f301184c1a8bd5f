// The other thread of `waiting.ts`: sleeps at the device, or runs beside it, and takes nothing from it. Plain JavaScript on
// purpose: a thread that had to translate something would have a translator of its own, which takes as much as all the rest.
import fs from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import { workerData } from 'node:worker_threads';

const POLLIN = 1;
/** POLLERR, POLLHUP, POLLNVAL: the mount is gone. */
const GONE = 8 + 16 + 32;
/** So long it stays awake without a request being served, in ms. */
const PATIENCE = 0.2;
/** Whoever else wants the processor comes first. */
const LAST = 19;

const { fd, state, words } = workerData;
const { AWAKE, RUNS, SERVED, SLEEPS, THERE, WANTED } = words;
const poll = createRequire(import.meta.url)('koffi')
  .load(null)
  .func('int poll(void *, unsigned long, int)');
// struct pollfd: descriptor, events, returned events.
const asked = Buffer.alloc(8);
asked.writeInt32LE(fd, 0);
asked.writeInt16LE(POLLIN, 4);

/** Keeps its processor awake while requests come one after the other. */
function stayAwake() {
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
function keep() {
  if (Atomics.load(state, WANTED) === SLEEPS) return poll(asked, 1, -1) <= 0 || (asked.readInt16LE(6) & GONE) === 0;
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

/** The other thread of `waiting.ts`: sleeps at the device and takes nothing from it. */
import { workerData } from 'node:worker_threads';
import { native } from '../../base/native.ts';
import { type CompanyOf, THERE, WANTED } from './waiting.ts';

/** POLLERR, POLLHUP, POLLNVAL: the mount is gone. */
const GONE = 8 + 16 + 32;

const { fd, state } = workerData as CompanyOf;
const poll = native()!.poller(fd);
Atomics.store(state, THERE, 1);
do Atomics.wait(state, WANTED, 0);
while ((poll(-1) & GONE) === 0);

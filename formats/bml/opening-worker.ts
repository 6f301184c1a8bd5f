/** A thread that opens records. */
import { Known, type Orders } from '../../src/base/threads/orders.ts';
import { serveThread } from '../../src/base/threads/thread.ts';
import { openAll } from './opening.ts';

const known = new Known();

serveThread((orders: Orders) => openAll(known, orders));

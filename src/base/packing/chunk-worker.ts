/** A thread that opens chunks. */
import { Known, type Orders } from '../threads/orders.ts';
import { serveThread } from '../threads/thread.ts';
import { openChunks } from './chunk.ts';

const known = new Known();

serveThread((orders: Orders) => openChunks(known, orders));

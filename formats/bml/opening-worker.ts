/** A thread that opens records. */
import { type Faults, Known, type Orders } from './opening.ts';
import { serveThread } from './thread.ts';

const known = new Known();

serveThread((orders: Orders): Faults => known.open(orders));

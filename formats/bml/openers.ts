/** Threads that open records. */
import * as base from '../../src/base/threads/openers.ts';
import { type Opening, openInto, ordersOf } from './opening.ts';

const program = new URL('./opening-worker.ts', import.meta.url);

export class Openers extends base.Openers<Opening> {
  constructor(threads?: number, atHome?: number) {
    super({ program, openInto, ordersOf }, threads, atHome);
  }
}

export const openers = new Openers();

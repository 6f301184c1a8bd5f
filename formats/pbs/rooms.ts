import { Rooms } from '../../src/base/rooms.ts';

/** For chunks on their way: stored, put together with a key, and read to be checked. */
export const ROOMS = new Rooms(16 * 2 ** 20);

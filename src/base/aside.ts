/** Calls of a library on pool threads. `koffi` refuses more than some hundred at the same time; here they wait for their turn. */

/** More than any pool has threads. */
const MOST = 64;

type Told = (error: Error | null, result: number) => void;

let running = 0;
const waiting: (() => void)[] = [];

/** `call` begins one and hands on how it is told the end. What the library is given stays the caller's to keep alive. */
export async function callAside(call: (told: Told) => void): Promise<number> {
  if (running >= MOST) await new Promise<void>(resolve => waiting.push(resolve));
  else running++;
  try {
    return await new Promise((resolve, reject) =>
      call((error, result) => (error === null ? resolve(result) : reject(error))),
    );
  } finally {
    // The turn goes on to the next one.
    const next = waiting.shift();
    if (next === undefined) running--;
    else next();
  }
}

import type { Done } from './contracts.ts';

/**
 * Resolves when every one of them has ended, and rejects with the first error only then: the parts write into one
 * buffer, which must not be given back while a slower part still fills it.
 */
export async function allDone(pending: readonly Promise<void>[]): Promise<void> {
  const ends = await Promise.allSettled(pending);
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
}

/** Adds to a list that does not exist while everything is done at once. */
export function also(pending: Promise<void>[] | undefined, more: Promise<void>): Promise<void>[] {
  if (pending === undefined) return [more];
  pending.push(more);
  return pending;
}

/**
 * Fills a buffer of so many bytes part by part. `part` begins to fill what lies at `done`, hands on what is not done yet, and
 * answers how far it came. An error waits for the parts that are still on their way into the buffer.
 */
export function inParts(length: number, part: (done: number, wait: (work: Done) => void) => number): Done {
  let pending: Promise<void>[] | undefined;
  const wait = (work: Done): void => {
    if (work !== undefined) pending = also(pending, work);
  };
  try {
    for (let done = 0; done < length; ) done = part(done, wait);
  } catch (error) {
    if (pending === undefined) throw error;
    wait(Promise.reject(error));
  }
  return joined(pending);
}

/** Collects what has to be waited for; nothing is allocated while everything is done at once. */
export function joined(pending: Promise<void>[] | undefined): Done {
  if (pending === undefined) return;
  return pending.length === 1 ? pending[0] : allDone(pending);
}

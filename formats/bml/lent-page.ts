import { PAGE } from './structs.ts';

const free: Uint8Array[] = [];

/**
 * Lends a page of memory, with whatever was in it: opening a set of a thousand points reads thousands of pages. What is made of
 * the page copies from it.
 */
export async function lentPage<T>(use: (page: Uint8Array) => Promise<T>): Promise<T> {
  const page = free.pop() ?? new Uint8Array(PAGE);
  try {
    return await use(page);
  } finally {
    free.push(page);
  }
}

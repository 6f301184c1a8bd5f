/**
 * Digests of whole blocks: at once where that is quick, else on a pool thread, through the library inside Node by the optional
 * package `koffi` (OpenSSL, EVP_Digest(3)). Without it they are computed at once.
 */
import { hash } from 'node:crypto';
import { callAside } from './aside.ts';
import { koffi } from './native.ts';
import { Pace } from './pace.ts';

const LENGTH = { md5: 16, sha256: 32 } as const;
export type DigestName = keyof typeof LENGTH;

type Aside = (name: DigestName, data: Uint8Array) => Promise<Uint8Array>;

function open(): Aside | null {
  try {
    const node = koffi()?.load(null);
    if (node === undefined) return null;
    const digest = node.func('int EVP_Digest(void *, size_t, void *, void *, void *, void *)');
    const kinds: Readonly<Record<DigestName, unknown>> = {
      md5: node.func('void *EVP_md5()')(),
      sha256: node.func('void *EVP_sha256()')(),
    };
    return async (name, data) => {
      const into = new Uint8Array(LENGTH[name]);
      const ok = await callAside(told => digest.async(data, data.length, into, null, kinds[name], null, told));
      if (ok !== 1) throw new Error(`${name} cannot be computed`);
      return into;
    };
  } catch {
    // A Node that keeps its library to itself.
    return null;
  }
}

let aside: Aside | null | undefined;

/** How long blocks take in the caller's thread. */
const pace = new Pace();

/** `data` is not to change until it is done. */
export function digestOf(name: DigestName, data: Uint8Array): Uint8Array | Promise<Uint8Array> {
  if (aside === undefined) aside = open();
  if (aside !== null && !pace.isQuick()) return aside(name, data);
  const began = performance.now();
  const digest = hash(name, data, 'buffer');
  pace.took(performance.now() - began);
  return digest;
}

/** Scratch space in memory. */
import type { ByteSource, Scratch } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { memoryStore } from '../../src/stores/memory.ts';

export interface MemoryScratch extends Scratch {
  /** Versions that were unpacked, in that order. */
  readonly kept: readonly string[];
}

export function memoryScratch(): MemoryScratch {
  const store = memoryStore();
  const kept: string[] = [];
  const told = { reached() {}, restart() {} };
  const scratch: MemoryScratch = {
    kept,
    growing(what) {
      let unpacked: Promise<ByteSource> | null = null;
      return {
        name: what.name,
        size: what.most ?? Number.MAX_SAFE_INTEGER,
        async read(into, at) {
          unpacked ??= scratch.unpacked(what);
          await (await unpacked).read(into, at);
        },
        async [Symbol.asyncDispose]() {},
      };
    },
    async unpacked({ name, version, most, content }): Promise<ByteSource> {
      if (!kept.includes(version)) {
        const parts: Uint8Array[] = [];
        let length = 0;
        for await (const part of content(told, 0)) {
          length += part.length;
          if (most !== null && length > most) throw new ImageError('corrupt', 'more comes out', { file: name });
          parts.push(part.slice());
        }
        store.put(version, Buffer.concat(parts));
        kept.push(version);
      }
      return store.open(version);
    },
  };
  return scratch;
}

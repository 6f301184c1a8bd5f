import type { ByteSource, Done } from './contracts.ts';
import { inParts } from './done.ts';
import { ImageError } from './errors.ts';
import { inRow, lastAtOrBefore } from './range.ts';

/** Several sources, none of them empty, one after another, as one that closes them. */
export function joinedSource(name: string, parts: readonly ByteSource[]): ByteSource {
  const { starts, size } = inRow(parts.map(part => part.size));
  return {
    name,
    size,
    read(into, at): Done {
      if (at + into.length > size) {
        const got = Math.max(0, size - at);
        throw new ImageError('corrupt', `the file ends early: ${got} of ${into.length} bytes`, { file: name, at });
      }
      return inParts(into.length, (done, wait) => {
        const i = lastAtOrBefore(starts, at + done);
        const within = at + done - starts[i]!;
        const length = Math.min(into.length - done, parts[i]!.size - within);
        wait(parts[i]!.read(into.subarray(done, done + length), within));
        return done + length;
      });
    },
    extent(at, limit) {
      const i = lastAtOrBefore(starts, at);
      const within = at - starts[i]!;
      const length = Math.min(limit, parts[i]!.size - within);
      return parts[i]!.extent?.(within, length) ?? { kind: 'data', length };
    },
    async [Symbol.asyncDispose]() {
      for (const part of parts) await part[Symbol.asyncDispose]();
    },
  };
}

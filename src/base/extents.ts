import type { Bytes, Extents } from './contracts.ts';

/** Length of the stretch, cut after the last byte that may be data: 0 when all of it is known to be zeros. */
export async function dataLength(disk: Extents, start: Bytes, length: Bytes): Promise<Bytes> {
  let end = 0;
  for (let done = 0; done < length; ) {
    const extent = disk.extent(start + done, length - done);
    if (extent === null) {
      await disk.load(start + done, length - done);
      continue;
    }
    done += extent.length;
    if (extent.kind === 'data') end = done;
  }
  return end;
}

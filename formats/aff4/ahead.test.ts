import { deflateRawSync, deflateSync } from 'node:zlib';
import { test } from 'vitest';
import { memoryStore } from '../../src/stores/memory.ts';
import { AHEAD_BAD, AHEAD_CHUNK, aheadContent, checkAhead, spoil } from '../../test/kit/read-ahead.ts';
import { snappyEncode, volumeFile } from './fixtures.ts';
import { aff4 } from './index.ts';

/** With a place in the chunk as it is stored where another byte is no damage to the decoder, but to what comes out. */
const PACK = {
  snappy: [snappyEncode, 10],
  deflate: [deflateRawSync, 60],
  zlib: [deflateSync, 60],
} as const;

test.each(['snappy', 'deflate', 'zlib'] as const)(
  '%s is decoded ahead, and a chunk with another digest fails alone',
  async compression => {
    const content = aheadContent();
    const stream = { name: 'aff4://1/stream', content, chunkSize: AHEAD_CHUNK, perBevy: 64, compression };
    const file = volumeFile({
      name: 'aff4://685e15cc',
      image: 'aff4://cf853d0b',
      size: content.length,
      streams: [stream],
    });
    const [pack, at] = PACK[compression];
    const stored = pack(content.subarray(AHEAD_BAD * AHEAD_CHUNK, (AHEAD_BAD + 1) * AHEAD_CHUNK));
    spoil(file, stored, stored.length - at);
    await checkAhead(aff4, memoryStore({ 'a.aff4': file }));
  },
);

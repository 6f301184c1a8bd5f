import { deflateSync } from 'node:zlib';
import { test } from 'vitest';
import { memoryStore } from '../../src/stores/memory.ts';
import { AHEAD_BAD, AHEAD_CHUNK, aheadContent, checkAhead, spoil } from '../../test/kit/read-ahead.ts';
import { ewfFiles } from './fixtures.ts';
import { ewf } from './index.ts';

test('chunks are inflated ahead, and one with another checksum fails for whoever reads it', async () => {
  const content = aheadContent();
  const files = ewfFiles({ content, sectorsPerChunk: AHEAD_CHUNK / 512, perTable: 50, compressed: true });
  const bad = content.subarray(AHEAD_BAD * AHEAD_CHUNK, (AHEAD_BAD + 1) * AHEAD_CHUNK);
  spoil(files['made.E01']!, deflateSync(bad), 1);
  await checkAhead(ewf, memoryStore(files));
});

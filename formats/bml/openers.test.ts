import { spawnSync } from 'node:child_process';
import { createSecretKey, hash, type KeyObject } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { compressNow } from './codec.ts';
import { TAG } from './node.ts';
import { Openers } from './openers.ts';

const LENGTH = 65536;

/** A block full of one byte, as its record holds it. */
function packed(byte: number) {
  const plain = new Uint8Array(LENGTH).fill(byte);
  const digest = hash('sha256', plain, 'buffer').subarray(0, TAG);
  return {
    body: compressNow(plain, 3)!,
    opening: { key: null as KeyObject | null, aad: new Uint8Array(), digest, codec: 1, length: LENGTH },
  };
}

test('nobody waits for a thread that is still starting, and none is needed to find damage', async () => {
  const openers = new Openers(2, 0);
  onTestFinished(() => openers.end());
  const blocks = Array.from({ length: 8 }, (_, i) => packed(i + 1));
  const round = async (): Promise<boolean> => {
    let turned = false;
    setImmediate(() => {
      turned = true;
    });
    const into = blocks.map(() => new Uint8Array(LENGTH));
    const faults = await Promise.all(blocks.map(({ body, opening }, i) => openers.open(body, opening, into[i]!)));
    expect(faults).toEqual(blocks.map(() => null));
    for (const [i, block] of into.entries()) expect(block.every(byte => byte === i + 1)).toBe(true);
    return turned;
  };
  expect(await round()).toBe(false);
  // Once a thread has started, the work is its own: the answer comes with a turn of the event loop.
  await expect.poll(round, { timeout: 20_000, interval: 20 }).toBe(true);
  const { body, opening } = packed(9);
  const wrong = { ...opening, digest: new Uint8Array(TAG) };
  const faults = await Promise.all([0, 1, 2].map(() => openers.open(body, wrong, new Uint8Array(LENGTH))));
  expect(faults).toEqual(Array(3).fill('the block fails its digest'));
});

test('what a thread was doing when it ended is done without it', async () => {
  const openers = new Openers(2, 0);
  onTestFinished(() => openers.end());
  const blocks = Array.from({ length: 64 }, (_, i) => packed(i + 1));
  const into = blocks.map(() => new Uint8Array(LENGTH));
  const round = () => Promise.allSettled(blocks.map(({ body, opening }, i) => openers.open(body, opening, into[i]!)));
  // Until both threads have started.
  await expect
    .poll(
      async () => {
        let turned = false;
        setImmediate(() => {
          turned = true;
        });
        await round();
        return turned;
      },
      { timeout: 20_000, interval: 100 },
    )
    .toBe(true);
  for (const block of into) block.fill(0);
  // A key that is none ends the thread that is to use it.
  blocks[20]!.opening.key = createSecretKey(new Uint8Array(5));
  blocks[20]!.body = new Uint8Array(100);
  const last = await round();
  for (const [i, block] of into.entries()) {
    expect(last[i]).toMatchObject(i === 20 ? { status: 'rejected' } : { status: 'fulfilled', value: null });
    if (i !== 20) expect(block.every(byte => byte === i + 1)).toBe(true);
  }
});

test('memory that threads reach is used as it is', async () => {
  const openers = new Openers(2, 0);
  onTestFinished(() => openers.end());
  const rooms = await Promise.all(Array.from({ length: 40 }, () => openers.room(2 * LENGTH)));
  const blocks = rooms.map((room, i) => {
    const { body, opening } = packed(i + 1);
    const inRoom = new Uint8Array(room, 0, body.length);
    inRoom.set(body);
    const own = new Uint8Array(LENGTH);
    return {
      body: inRoom,
      opening,
      into: i % 2 === 0 ? own : new Uint8Array(room, LENGTH),
      spare: new Uint8Array(room, LENGTH),
    };
  });
  const round = async (): Promise<boolean> => {
    let turned = false;
    setImmediate(() => {
      turned = true;
    });
    for (const { into } of blocks) into.fill(0);
    await Promise.all(blocks.map(({ body, opening, into, spare }) => openers.open(body, opening, into, spare)));
    for (const [i, { into }] of blocks.entries())
      expect(into.subarray(0, LENGTH).every(byte => byte === i + 1)).toBe(true);
    return turned;
  };
  // Once in memory that the threads do not know yet, once in what they know; a busy machine may need several rounds.
  for (let times = 0; times < 2; times++) await expect.poll(round, { timeout: 20_000, interval: 20 }).toBe(true);
});

test('a thread that was started and has nothing to do keeps no program from ending', () => {
  const program = `
    const { Openers } = await import(${JSON.stringify(new URL('./openers.ts', import.meta.url).href)});
    const { compressNow } = await import(${JSON.stringify(new URL('./codec.ts', import.meta.url).href)});
    const length = 65536;
    const opening = { key: null, aad: new Uint8Array(), digest: new Uint8Array(16), codec: 1, length };
    const body = compressNow(new Uint8Array(length), 3);
    const openers = new Openers(2, 0);
    await Promise.all([0, 1, 2].map(() => openers.open(body, opening, new Uint8Array(length))));
    console.log('done');`;
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-openers-'));
  onTestFinished(() => fs.rmSync(folder, { recursive: true }));
  const file = path.join(folder, 'program.mjs');
  fs.writeFileSync(file, program);
  const ran = spawnSync(process.execPath, [file], { encoding: 'utf8', timeout: 10_000, killSignal: 'SIGKILL' });
  expect(ran.stdout, ran.stderr).toBe('done\n');
  expect(ran.status).toBe(0);
});

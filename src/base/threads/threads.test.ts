import { execFileSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { Threads } from './threads.ts';

/** A thread that says that it has started only after it was told to end. */
const PROGRAM = `
const { parentPort } = require('node:worker_threads');
setTimeout(() => parentPort.postMessage('ready'), 50);
parentPort.on('message', () => setTimeout(() => process.exit(), 150));
`;

test('a program that waits for the end of a thread that was still starting does not end before', () => {
  const threads = JSON.stringify(new URL('./threads.ts', import.meta.url).href);
  const script = `
    import { Threads } from ${threads};
    const url = new URL('data:text/javascript,' + encodeURIComponent('import { createRequire } from "node:module"; const require = createRequire("/");' + ${JSON.stringify(PROGRAM)}));
    const threads = new Threads({ program: url, what: 'tests' });
    threads.startOne();
    await threads.end();
    process.stdout.write('ended');
  `;
  const out = execFileSync(process.execPath, ['--input-type=module', '-e', script], {
    encoding: 'utf8',
    stdio: 'pipe',
  });
  expect(out).toBe('ended');
});

const ECHO = `
import { parentPort } from 'node:worker_threads';
parentPort.postMessage('ready');
parentPort.on('message', message => (message === 'end' ? parentPort.close() : parentPort.postMessage(message)));
`;

test('what cannot be sent, and an answer that cannot be read, shift no other answer', async () => {
  const threads = new Threads<unknown, unknown>({
    program: new URL(`data:text/javascript,${encodeURIComponent(ECHO)}`),
    what: 'tests',
    most: 1,
  });
  const thread = threads.next();
  await expect(threads.send(thread, () => {}, 1)).rejects.toThrow(/cloned/);
  expect([threads.idle, await threads.send(thread, 'a', 1)]).toEqual([true, 'a']);
  const lost = threads.send(thread, 'b', 1);
  thread.worker.emit('messageerror', new Error('planted'));
  await expect(lost).rejects.toThrow('a thread that tests failed: planted');
  const other = threads.next();
  expect([other === thread, await threads.send(other, 'c', 1)]).toEqual([false, 'c']);
  await threads.end();
});

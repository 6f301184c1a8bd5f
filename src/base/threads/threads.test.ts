import { execFileSync } from 'node:child_process';
import { expect, test } from 'vitest';

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

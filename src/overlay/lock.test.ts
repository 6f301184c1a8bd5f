import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { bootId, pidNamespace, startOf } from '../base/files.ts';
import { lockFolder } from './lock.ts';

const SELF = path.join(import.meta.dirname, 'lock.ts');
let folder = '';

beforeEach(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'lock-'));
});
afterEach(() => fs.rmSync(folder, { recursive: true, force: true }));

const leave = (content: string): void => fs.writeFileSync(path.join(folder, 'lock'), content);
const holder = (pid: number, start: string, boot = bootId(), namespace = pidNamespace()): string =>
  `pid ${pid}\nstart ${start}\nboot ${boot}\nnamespace ${namespace}\n`;
const busy = expect.objectContaining({ fault: 'busy' });

/** A program that takes the lock and lets go of it when it is told to, and answers each time. */
async function taker(): Promise<{ pid: number; say(word: string): Promise<string>; end(): Promise<void> }> {
  const script = `
    import { createInterface } from 'node:readline';
    import { lockFolder } from ${JSON.stringify(SELF)};
    let lock = null;
    console.log('ready');
    for await (const word of createInterface(process.stdin)) {
      try {
        if (word === 'take') lock = lockFolder(${JSON.stringify(folder)});
        else lock?.release();
        if (word === 'release') lock = null;
        console.log('got');
      } catch (error) { console.log(error.fault ?? String(error)); }
    }`;
  const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', script], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  const answer = async (): Promise<string> => (await lines.next()).value ?? 'ended';
  await answer();
  return {
    pid: child.pid!,
    say(word) {
      child.stdin.write(`${word}\n`);
      return answer();
    },
    async end() {
      const exit = once(child, 'exit');
      child.kill('SIGKILL');
      await exit;
    },
  };
}

describe('the lock of a folder', () => {
  it('is refused while it is held, by this program too, and free after its release', () => {
    const lock = lockFolder(folder);
    expect(() => lockFolder(folder)).toThrow(busy);
    lock.release();
    lock.release();
    expect(fs.readdirSync(folder)).toEqual([]);
    lockFolder(folder).release();
  });

  it('is refused while another program holds it, and taken over when that was killed', async () => {
    const other = await taker();
    expect(await other.say('take')).toBe('got');
    expect(() => lockFolder(folder)).toThrow(new RegExp(`pid ${other.pid}`));
    await other.end();
    const lock = lockFolder(folder);
    expect(fs.readdirSync(folder)).toEqual(['lock']);
    lock.release();
  });

  it.each([
    ['of another boot', () => holder(process.pid, startOf(process.pid)!, 'ffffffff-0000-0000-0000-000000000000')],
    ['of a program that ended, whose pid another one has now', () => holder(process.pid, '1')],
    ['of a program that ended', () => holder(4194301, '1')],
    ['that a power loss left without content', () => ''],
    ['that a power loss left as zeros', () => '\0'.repeat(120)],
  ])('is taken over from a lock %s', (_what, content) => {
    leave(content());
    lockFolder(folder).release();
    expect(fs.readdirSync(folder)).toEqual([]);
  });

  it('is refused when the holder cannot be judged from here', () => {
    leave(holder(4194301, '1', bootId(), 'pid:[1]'));
    expect(() => lockFolder(folder)).toThrow(busy);
    leave('something else');
    expect(() => lockFolder(folder)).toThrow(busy);
  });

  it('is not let go for somebody else', () => {
    const lock = lockFolder(folder);
    leave(holder(1, startOf(1) ?? '0'));
    lock.release();
    expect(fs.existsSync(path.join(folder, 'lock'))).toBe(true);
  });

  it('is taken over by one of many who find it stale, even when one was killed while taking over', async () => {
    const takers = await Promise.all([1, 2, 3, 4].map(taker));
    for (let round = 0; round < 25; round++) {
      leave(holder(4194301, '1'));
      if (round % 2 === 0) fs.writeFileSync(path.join(folder, 'lock~4194301-1'), holder(4194302, '2'));
      const said = await Promise.all(takers.map(one => one.say('take')));
      expect(said.sort()).toEqual(['busy', 'busy', 'busy', 'got']);
      await Promise.all(takers.map(one => one.say('release')));
      expect(fs.readdirSync(folder)).toEqual([]);
    }
    await Promise.all(takers.map(one => one.end()));
  });
});

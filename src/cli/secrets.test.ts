import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ImageError } from '../base/errors.ts';
import { type KeyArgs, keyring, splitCommand } from './secrets.ts';

let folder: string;
beforeAll(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-secrets-'));
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

function keyFile(name: string, content: string | Uint8Array, mode = 0o600): string {
  const file = path.join(folder, name);
  fs.writeFileSync(file, content);
  fs.chmodSync(file, mode);
  return file;
}

const secretsOf = async (args: KeyArgs): Promise<readonly string[]> => {
  using keys = keyring(args, { ask: false });
  return (await keys.secrets()).map(secret => Buffer.from(secret).toString());
};

const faultOf = async (args: KeyArgs): Promise<string> => {
  try {
    await secretsOf(args);
    return 'none';
  } catch (error) {
    return error instanceof ImageError ? error.fault : String(error);
  }
};

describe('key files', () => {
  test.each([
    ['one line end is an editor’s', 'secret\n', 'secret'],
    ['also that of Windows', 'secret\r\n', 'secret'],
    ['a second one belongs to the key', 'secret\n\n', 'secret\n'],
    ['as do spaces', ' secret ', ' secret '],
  ])('%s', async (_name, content, secret) => {
    expect(await secretsOf({ keyFile: [keyFile('key', content)] })).toEqual([secret]);
  });

  test('several are tried in their order, and wiped in the end', async () => {
    const keyFiles = [keyFile('k1', 'one'), keyFile('k2', 'two')];
    expect(await secretsOf({ keyFile: keyFiles })).toEqual(['one', 'two']);
    const keys = keyring({ keyFile: keyFiles }, { ask: false });
    const [secret] = await keys.secrets();
    expect(await keys.secrets()).toBe(await keys.secrets());
    keys[Symbol.dispose]();
    expect([...secret!]).toEqual([0, 0, 0]);
  });

  test('only its owner may be able to read it', async () => {
    const modes = [0o600, 0o400, 0o700, 0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o666];
    const faults = await Promise.all(
      modes.map(mode => faultOf({ keyFile: [keyFile(`mode-${mode.toString(8)}`, 'x', mode)] })),
    );
    expect(faults).toEqual([...Array(3).fill('none'), ...Array(7).fill('usage')]);
  });

  test.skipIf(process.getuid?.() !== 0)('another user’s file is refused (needs root to be made)', async () => {
    const file = keyFile('foreign', 'x');
    fs.chownSync(file, 12345, 0);
    expect(await faultOf({ keyFile: [file] })).toBe('usage');
  });

  test('links, folders, pipes, empty and oversized ones are refused; a missing one is not found', async () => {
    const link = path.join(folder, 'link');
    fs.symlinkSync(keyFile('target', 'x'), link);
    expect(await faultOf({ keyFile: [link] })).toBe('usage');
    expect(await faultOf({ keyFile: [folder] })).toBe('usage');
    expect(await faultOf({ keyFile: [keyFile('empty', '')] })).toBe('usage');
    expect(await faultOf({ keyFile: [keyFile('line', '\n')] })).toBe('usage');
    expect(await faultOf({ keyFile: [keyFile('big', new Uint8Array(65_537).fill(65))] })).toBe('usage');
    expect(await faultOf({ keyFile: [path.join(folder, 'missing')] })).toBe('not-found');
    expect(await faultOf({ keyFd: 987 })).toBe('usage');
    expect(await faultOf({ keyFd: Number.NaN })).toBe('usage');
  });
});

describe('key commands', () => {
  test('words are split, and no shell sees them', async () => {
    expect(splitCommand(`a 'b c' "d \\" e" f\\ g h''i`)).toEqual(['a', 'b c', 'd " e', 'f g', 'hi']);
    expect(() => splitCommand('a "b')).toThrow(/quote/);
    expect(() => splitCommand('  ')).toThrow(/empty/);
    expect(await secretsOf({ keyCommand: `printf '%s\\n' '$(id) ; "x"'` })).toEqual(['$(id) ; "x"']);
  });

  test('a command that fails, is missing, or says nothing gives no key', async () => {
    for (const keyCommand of ['false', '/missing/command', 'true', `sh -c 'echo x; exit 3'`]) {
      expect(await faultOf({ keyCommand }), keyCommand).toBe('usage');
    }
  });
});

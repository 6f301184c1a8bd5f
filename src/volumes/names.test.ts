import { describe, expect, test } from 'vitest';
import { random } from '../../test/kit/random.ts';
import { linkInside } from './links.ts';
import { fieldText, nameOf, shownName } from './names.ts';

describe('names', () => {
  test('what a path cannot hold is written out', () => {
    expect(['a/b', '..', '.', '', 'nul\0', 'plain', 'x\\x41'].map(shownName)).toEqual([
      'a\\x2fb',
      '\\x2e\\x2e',
      '\\x2e',
      '\\x',
      'nul\\x00',
      'plain',
      'x\\x5cx41',
    ]);
    expect(shownName(nameOf(Buffer.from([0x61, 0xff, 0xc3, 0xa9, 0x80])))).toBe('a\\xffé\\x80');
    expect(shownName('\ud800x')).toBe('\\ud800x');
    expect(fieldText(Buffer.from(' root \0junk'))).toBe('root');
  });

  test('different bytes have different names, which a path can hold', () => {
    const { below, pick } = random(11);
    const seen = new Map<string, string>();
    for (let i = 0; i < 20_000; i++) {
      const bytes = Buffer.from(
        Array.from({ length: 1 + below(12) }, () =>
          pick([0x2e, 0x2f, 0x5c, 0x78, 0x66, 0xc3, 0xa9, 0xed, 0xb2, below(256)]),
        ),
      );
      const name = shownName(nameOf(bytes));
      expect(name.isWellFormed() && !/[/\0]/.test(name) && name !== '.' && name !== '..').toBe(true);
      const key = bytes.toString('hex');
      expect([name, seen.get(name) ?? key]).toEqual([name, key]);
      seen.set(name, key);
    }
  });

  test('long names are cut to 255 bytes and stay apart', () => {
    const [a, b] = [shownName(`${'漢'.repeat(200)}a`), shownName(`${'漢'.repeat(200)}b`)];
    expect(Buffer.byteLength(a)).toBeLessThanOrEqual(255);
    expect(a).not.toBe(b);
  });
});

describe('links', () => {
  test.each([
    ['file', 3, 'file'],
    ['../file', 1, '../file'],
    ['/etc/fstab', 2, '../../etc/fstab'],
    ['/', 0, '.'],
    ['../../../../etc/passwd', 1, '../etc/passwd'],
    ['a/../../../../b', 1, '../b'],
    ['/../../x', 1, '../x'],
    ['./a//b/', 0, 'a/b'],
    ['C:/Users', 1, '../Users'],
    ['c:', 0, '.'],
    ['//server/share', 1, '../server/share'],
  ])('%s at depth %i is %s', (target, depth, inside) => {
    expect(linkInside(target, depth, true)).toBe(inside);
  });

  test('no target leads above the root, whatever it is', () => {
    const { below, pick } = random(5);
    for (let i = 0; i < 5000; i++) {
      const depth = below(4);
      const target = Array.from({ length: below(9) }, () => pick(['..', '.', '', 'a', '...', 'C:', 'b\0'])).join('/');
      const parts = linkInside(target, depth, i % 2 === 0).split('/');
      const ups = parts.filter(part => part === '..').length;
      expect(ups).toBeLessThanOrEqual(depth);
      expect(parts.slice(0, ups).every(part => part === '..')).toBe(true);
      expect(parts[0]).not.toBe('');
    }
  });
});

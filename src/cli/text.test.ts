import { describe, expect, test } from 'vitest';
import { display, displayJson, formatDuration, formatSize, formatTime, listNames, parseSize, table } from './text.ts';

/** Everything that a terminal acts on or that reorders or hides text. */
const HOSTILE = ['\x1b[2J', '\x07', '\r', '\n', '\x7f', '\x9b31m', '\u202e', '\u2066', '\u200b', '\ufeff', '\ud800'];

describe('text', () => {
  test('nothing in a name drives a terminal', () => {
    expect(display('a\x1b[31mb')).toBe('a\\x1b[31mb');
    expect(display('a\u202eb')).toBe('a\\xe2\\x80\\xaeb');
    expect(display('Größe 文件 😀')).toBe('Größe 文件 😀');
    for (const name of HOSTILE) expect(display(name)).toMatch(/^[\x20-\x7e]+$/);
  });

  test('JSON stays the same value and becomes harmless', () => {
    const value = { names: HOSTILE.slice(0, -1), deep: [{ 'a\u202e': '文' }] };
    const text = displayJson(value);
    expect(JSON.parse(text)).toEqual(value);
    for (const line of text.split('\n')) expect(line).toMatch(/^[\x20-\x7e文]*$/);
  });

  test('sizes', () => {
    expect([0, 1023, 1024, 1536, 1048575, 2 ** 40, 2 ** 53].map(formatSize)).toEqual([
      '0 B',
      '1023 B',
      '1.0 KiB',
      '1.5 KiB',
      '1.0 MiB',
      '1.0 TiB',
      '8.0 PiB',
    ]);
    expect(['65536', '64K', '64k', '64KiB', '1.5G', '0'].map(text => parseSize(text, '--x'))).toEqual([
      65536,
      65536,
      65536,
      65536,
      1.5 * 2 ** 30,
      0,
    ]);
    for (const text of ['', 'K', '-1', '1e3', '64X', '0x10', '99999999P', '1.0001']) {
      expect(() => parseSize(text, '--x'), text).toThrow(/is not a size/);
    }
  });

  test('times and durations', () => {
    expect(formatTime(new Date('2026-11-02T02:00:00.123Z'))).toBe('2026-11-02 02:00:00Z');
    expect([1234, 250_000, 7_500_000].map(formatDuration)).toEqual(['1.2 s', '4 min 10 s', '2 h 05 min']);
  });

  test('of many names a few are listed', () => {
    const names = Array.from({ length: 971 }, (_, n) => `p${n}`);
    expect(listNames(names.slice(0, 8))).toBe('p0, p1, p2, p3, p4, p5, p6, p7');
    expect(listNames(names.slice(0, 9))).toBe('p0, p1, p2, 5 more, p8');
    expect(listNames(names)).toBe('p0, p1, p2, 967 more, p970');
  });

  test('tables line up, and a cell stays on its line', () => {
    const rows = [
      ['a', '1'],
      ['long\nname', '100'],
    ];
    expect(table([{ title: 'N' }, { title: 'SIZE', right: true }], rows).split('\n')).toEqual([
      'N             SIZE',
      'a                1',
      'long\\x0aname   100',
    ]);
  });
});

import { expect, it } from 'vitest';
import { consoleLines } from './serial.ts';

const linesOf = (...parts: string[]): string[] => {
  const lines: string[] = [];
  const console = consoleLines(line => lines.push(line));
  for (const part of parts) console.push(part);
  console.end();
  return lines;
};

it('joins what arrives in parts', () => {
  expect(linesOf('TINY-BO', 'OT-OK\r', '\nnext')).toEqual(['TINY-BOOT-OK', 'next']);
});

it('takes cursor and colour sequences out, and shows what else could drive a terminal', () => {
  expect(linesOf('\x1b[H\x1b[J\x1b[1;1Hready\n', 'a\x07b\x1b]0;title\x07\n')).toEqual([
    'ready',
    'a\\x07b\\x1b]0;title\\x07',
  ]);
});

it('does not collect without limit', () => {
  expect(linesOf('x'.repeat(20_000)).map(line => line.length)).toEqual([8192, 8192, 3616]);
});

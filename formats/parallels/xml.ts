/**
 * A reader for small XML documents that programs write: elements with text. Attributes are checked and left out; document
 * types, and with them entities of one's own, are refused.
 */
import { ImageError } from '../../src/base/errors.ts';

export interface Element {
  readonly name: string;
  readonly children: readonly Element[];
  /** Its own text, without the white space around it. */
  readonly text: string;
}

const LARGEST = 4 * 2 ** 20;
const DEEPEST = 32;
const MOST_ELEMENTS = 100_000;
const ENTITIES: ReadonlyMap<string, string> = new Map([
  ['amp', '&'],
  ['lt', '<'],
  ['gt', '>'],
  ['quot', '"'],
  ['apos', "'"],
]);

const NAME = '[A-Za-z_][\\w.:-]*';
const ATTRIBUTES = `(?:\\s+${NAME}\\s*=\\s*(?:"[^"<]*"|'[^'<]*'))*\\s*`;
/** Sticky: they match at the reader's place or not at all. */
const START = new RegExp(`<(${NAME})${ATTRIBUTES}(/?)>`, 'y');
const END = new RegExp(`</(${NAME})\\s*>`, 'y');
const TEXT = /[^<]+/y;

/** Offsets count characters. */
type Fail = (message: string, at: number) => never;

type Token = { readonly at: number } & (
  | { readonly kind: 'start'; readonly name: string; readonly empty: boolean }
  | { readonly kind: 'end'; readonly name: string }
  | { readonly kind: 'text'; readonly content: string }
);

/** `#65` or `#x41`. */
function numbered(name: string): string | undefined {
  const match = /^#(?:x([\da-f]{1,6})|(\d{1,7}))$/i.exec(name);
  if (match === null) return undefined;
  const code = match[1] === undefined ? Number(match[2]) : Number.parseInt(match[1], 16);
  return code > 0 && code <= 0x10_ffff && (code < 0xd800 || code > 0xdfff) ? String.fromCodePoint(code) : undefined;
}

const decoded = (text: string, at: number, fail: Fail): string =>
  text.replace(/&([^;&]{0,10});?/g, (all, name: string) => {
    const known = ENTITIES.get(name) ?? numbered(name);
    return known !== undefined && all.endsWith(';') ? known : fail(`the entity ${JSON.stringify(all)}`, at);
  });

function* tokens(text: string, fail: Fail): Generator<Token> {
  let at = 0;
  const take = (pattern: RegExp): RegExpExecArray | null => {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (found !== null) at += found[0].length;
    return found;
  };
  /** What stands between two marks, when the first one is at the reader's place. */
  const between = (mark: string, last: string): string | null => {
    if (!text.startsWith(mark, at)) return null;
    const from = at + mark.length;
    const end = text.indexOf(last, from);
    if (end < 0) fail(`${mark} without ${last}`, at);
    at = end + last.length;
    return text.slice(from, end);
  };
  while (at < text.length) {
    const from = at;
    if (between('<!--', '-->') !== null || between('<?', '?>') !== null) continue;
    const start = take(START);
    const end = start === null ? take(END) : null;
    if (start !== null) yield { kind: 'start', name: start[1]!, empty: start[2] === '/', at: from };
    else if (end !== null) yield { kind: 'end', name: end[1]!, at: from };
    else {
      const literal = between('<![CDATA[', ']]>');
      const plain = literal === null ? take(TEXT) : null;
      if (literal !== null) yield { kind: 'text', content: literal, at: from };
      else if (plain !== null) yield { kind: 'text', content: decoded(plain[0], from, fail), at: from };
      else fail('something that is neither an element nor text', from);
    }
  }
}

interface Growing {
  readonly name: string;
  readonly children: Element[];
  text: string;
}

function treeOf(text: string, fail: Fail): Element {
  let count = 0;
  let root: Element | null = null;
  const open: Growing[] = [];
  const close = (done: Growing): void => {
    const element: Element = { ...done, text: done.text.trim() };
    const parent = open.at(-1);
    if (parent === undefined) root = element;
    else parent.children.push(element);
  };
  for (const token of tokens(text, fail)) {
    const top = open.at(-1);
    switch (token.kind) {
      case 'start': {
        if (top === undefined && root !== null) fail('a second root', token.at);
        if (++count > MOST_ELEMENTS) fail(`more than ${MOST_ELEMENTS} elements`, token.at);
        if (open.length >= DEEPEST) fail(`deeper than ${DEEPEST} elements`, token.at);
        const element: Growing = { name: token.name, children: [], text: '' };
        if (token.empty) close(element);
        else open.push(element);
        break;
      }
      case 'end':
        if (top?.name !== token.name) fail(`</${token.name}> where <${top?.name ?? ''}> is open`, token.at);
        close(open.pop()!);
        break;
      case 'text':
        if (top !== undefined) top.text += token.content;
        else if (token.content.trim() !== '') fail('text outside the root', token.at);
    }
  }
  if (open.length > 0) fail(`<${open.at(-1)!.name}> is not closed`, text.length);
  return root ?? fail('no element', 0);
}

/** Parses `raw` as UTF-8; 'corrupt' for anything that is not well formed. `file` is for messages. */
export function parseXml(raw: Uint8Array, file: string): Element {
  const fail: Fail = (message, at) => {
    throw new ImageError('corrupt', `the XML cannot be read: ${message}`, { file, at });
  };
  if (raw.length > LARGEST) fail(`more than ${LARGEST} bytes`, LARGEST);
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(raw);
  } catch {
    return fail('not UTF-8', 0);
  }
  return treeOf(text, fail);
}

/**
 * A reader for small XML documents that programs write: elements with attributes and text, names without their prefixes.
 * Document types, and with them entities of one's own, are refused. Length, depth and number of elements are bounded.
 */
import { ImageError } from './errors.ts';

export interface Element {
  readonly name: string;
  readonly attributes: ReadonlyMap<string, string>;
  readonly children: readonly Element[];
  /** Its own text, without the white space around it. */
  readonly text: string;
}

const LARGEST = 8 * 2 ** 20;
const DEEPEST = 64;
const MOST_ELEMENTS = 200_000;
const ENTITIES: ReadonlyMap<string, string> = new Map([
  ['amp', '&'],
  ['lt', '<'],
  ['gt', '>'],
  ['quot', '"'],
  ['apos', "'"],
]);

const NAME = '[A-Za-z_][\\w.:-]*';
const ATTRIBUTES = `(?:\\s+${NAME}\\s*=\\s*(?:"[^"<]*"|'[^'<]*'))*`;
const ATTRIBUTE = new RegExp(`(${NAME})\\s*=\\s*(?:"([^"]*)"|'([^']*)')`, 'g');
/** Sticky: they match at the reader's place or not at all. */
const START = new RegExp(`<(${NAME})(${ATTRIBUTES})\\s*(/?)>`, 'y');
const END = new RegExp(`</(${NAME})\\s*>`, 'y');
const TEXT = /[^<]+/y;

/** Offsets count characters. */
type Fail = (message: string, at: number) => never;

type Token = { readonly at: number } & (
  | { readonly kind: 'start'; readonly name: string; readonly attributes: string; readonly empty: boolean }
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

const REFERENCE = /&([^;&]{0,10})(;?)/g;

/** Each reference is looked at before the next one is searched: a text may have millions of wrong ones. */
function decoded(text: string, at: number, fail: Fail): string {
  let out = '';
  let from = 0;
  for (const match of text.matchAll(REFERENCE)) {
    const [all, name, end] = match;
    const known = end === '' ? undefined : (ENTITIES.get(name!) ?? numbered(name!));
    out += text.slice(from, match.index) + (known ?? fail(`the entity ${JSON.stringify(all)}`, at));
    from = match.index + all.length;
  }
  return from === 0 ? text : out + text.slice(from);
}

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
    if (start !== null) {
      yield { kind: 'start', name: start[1]!, attributes: start[2]!, empty: start[3] === '/', at: from };
    } else if (end !== null) yield { kind: 'end', name: end[1]!, at: from };
    else {
      const literal = between('<![CDATA[', ']]>');
      const plain = literal === null ? take(TEXT) : null;
      if (literal !== null) yield { kind: 'text', content: literal, at: from };
      else if (plain !== null) yield { kind: 'text', content: decoded(plain[0], from, fail), at: from };
      else fail('something that is neither an element nor text', from);
    }
  }
}

const localName = (name: string): string => name.slice(name.indexOf(':') + 1);

const NONE: ReadonlyMap<string, string> = new Map();

function attributesOf(written: string, at: number, fail: Fail): ReadonlyMap<string, string> {
  if (written === '') return NONE;
  const attributes = new Map<string, string>();
  for (const [, name, quoted, apostrophed] of written.matchAll(ATTRIBUTE)) {
    attributes.set(localName(name!), decoded(quoted ?? apostrophed!, at, fail));
  }
  return attributes;
}

interface Growing extends Element {
  /** As it is written. */
  readonly full: string;
  readonly children: Element[];
  text: string;
}

function treeOf(text: string, fail: Fail): Element {
  let count = 0;
  let root: Element | null = null;
  const open: Growing[] = [];
  const close = (done: Growing): void => {
    const { name, attributes, children } = done;
    const element: Element = { name, attributes, children, text: done.text.trim() };
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
        const attributes = attributesOf(token.attributes, token.at, fail);
        const element = { name: localName(token.name), full: token.name, attributes, children: [], text: '' };
        if (token.empty) close(element);
        else open.push(element);
        break;
      }
      case 'end':
        if (top?.full !== token.name) fail(`</${token.name}> where <${top?.full ?? ''}> is open`, token.at);
        close(open.pop()!);
        break;
      case 'text':
        if (top !== undefined) top.text += token.content;
        else if (token.content.trim() !== '') fail('text outside the root', token.at);
    }
  }
  if (open.length > 0) fail(`<${open.at(-1)!.full}> is not closed`, text.length);
  return root ?? fail('no element', 0);
}

/** Parses bytes as UTF-8, or text; 'corrupt' for anything that is not well formed. `file` is for messages. */
export function parseXml(raw: Uint8Array | string, file: string): Element {
  const fail: Fail = (message, at) => {
    throw new ImageError('corrupt', `the XML cannot be read: ${message}`, { file, at });
  };
  if (raw.length > LARGEST) fail(`more than ${LARGEST} bytes`, LARGEST);
  if (typeof raw === 'string') return treeOf(raw, fail);
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(raw);
  } catch {
    return fail('not UTF-8', 0);
  }
  return treeOf(text, fail);
}

/** All elements of a name, at any depth, in the order of the document. */
export function* descendants(of: Element, name: string): Generator<Element> {
  for (const child of of.children) {
    if (child.name === name) yield child;
    yield* descendants(child, name);
  }
}

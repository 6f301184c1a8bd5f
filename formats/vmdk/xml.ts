/** As much of XML as an OVF descriptor needs: elements with their attributes and texts, names without their prefixes. */
import { ImageError } from '../../src/base/errors.ts';

export interface Element {
  readonly name: string;
  readonly attributes: ReadonlyMap<string, string>;
  readonly children: readonly Element[];
  /** Of the element itself, without its children's. */
  readonly text: string;
}

interface Growing extends Element {
  readonly children: Growing[];
  text: string;
}

const DEEPEST = 256;
const NAMED: Readonly<Record<string, string>> = { lt: '<', gt: '>', amp: '&', quot: '"', apos: "'" };

function unescaped(text: string): string {
  return text.replace(/&(#x[0-9a-f]+|#\d+|\w+);/gi, (whole, name: string) => {
    if (!name.startsWith('#')) return NAMED[name] ?? whole;
    const code = /^#x/i.test(name) ? Number.parseInt(name.slice(2), 16) : Number(name.slice(1));
    return code <= 0x10_ffff ? String.fromCodePoint(code) : whole;
  });
}

const localName = (name: string): string => name.slice(name.indexOf(':') + 1);

const element = (name: string, attributes: ReadonlyMap<string, string>): Growing => ({
  name: localName(name),
  attributes,
  children: [],
  text: '',
});

/** Reads a document from its start to its end, each part once: a file may be made to be slow to read. */
class Scanner {
  readonly #xml: string;
  readonly #file: string;
  #at = 0;

  constructor(xml: string, file: string) {
    this.#xml = xml;
    this.#file = file;
  }

  fail(why: string): ImageError {
    return new ImageError('corrupt', `the OVF descriptor is no XML: ${why}`, { file: this.#file, at: this.#at });
  }

  /** Everything up to `end`, which is skipped; null when there is no more of it. */
  upTo(end: string): string | null {
    const found = this.#xml.indexOf(end, this.#at);
    if (found < 0) return null;
    const part = this.#xml.slice(this.#at, found);
    this.#at = found + end.length;
    return part;
  }

  skipped(text: string): boolean {
    if (!this.#xml.startsWith(text, this.#at)) return false;
    this.#at += text.length;
    return true;
  }

  /** What the expression (sticky) matches here. */
  match(expression: RegExp): RegExpExecArray | null {
    expression.lastIndex = this.#at;
    const found = expression.exec(this.#xml);
    if (found !== null) this.#at = expression.lastIndex;
    return found;
  }
}

/** What begins with `<` and is no element: comments, instructions, declarations. Gives the text that it stands for. */
function otherMarkup(scanner: Scanner): string | null {
  const until = (end: string): string => {
    const part = scanner.upTo(end);
    if (part === null) throw scanner.fail(`${end} is missing`);
    return part;
  };
  if (scanner.skipped('![CDATA[')) return until(']]>');
  if (scanner.skipped('!--')) until('-->');
  else if (scanner.skipped('?')) until('?>');
  else if (scanner.skipped('!')) until('>');
  else return null;
  return '';
}

/** Behind a start tag's name. */
function attributesOf(scanner: Scanner): { readonly attributes: ReadonlyMap<string, string>; readonly empty: boolean } {
  const attributes = new Map<string, string>();
  for (;;) {
    const end = scanner.match(/\s*(\/?)>/y);
    if (end !== null) return { attributes, empty: end[1] === '/' };
    const found = scanner.match(/\s+([^\s=<>"'/]+)\s*=\s*(?:"([^"]*)"|'([^']*)')/y);
    if (found === null) throw scanner.fail('a tag is not closed');
    attributes.set(localName(found[1]!), unescaped(found[2] ?? found[3]!));
  }
}

/** The outermost element. Entities that a document declares itself are left as they are. */
export function parseXml(xml: string, file: string): Element {
  const scanner = new Scanner(xml, file);
  const root = element('', new Map());
  const open: Growing[] = [root];
  for (let text = scanner.upTo('<'); text !== null; text = scanner.upTo('<')) {
    const top = open.at(-1)!;
    top.text += unescaped(text);
    const other = otherMarkup(scanner);
    if (other !== null) {
      top.text += other;
      continue;
    }
    const closing = scanner.skipped('/');
    const name = scanner.match(/[^\s<>"'/=]+/y)?.[0];
    if (name === undefined) throw scanner.fail('a tag has no name');
    if (closing) {
      if (open.length === 1 || top.name !== localName(name))
        throw scanner.fail(`</${name.slice(0, 60)}> closes nothing`);
      if (scanner.match(/\s*>/y) === null) throw scanner.fail('a tag is not closed');
      open.pop();
      continue;
    }
    const { attributes, empty } = attributesOf(scanner);
    const child = element(name, attributes);
    top.children.push(child);
    if (empty) continue;
    if (open.length === DEEPEST) throw scanner.fail('elements are nested too deep');
    open.push(child);
  }
  if (open.length > 1) throw scanner.fail(`<${open.at(-1)!.name.slice(0, 60)}> is not closed`);
  const first = root.children[0];
  if (first === undefined) throw scanner.fail('there is no element');
  return first;
}

/** All elements of a name, at any depth, in the order of the document. */
export function* descendants(of: Element, name: string): Generator<Element> {
  for (const child of of.children) {
    if (child.name === name) yield child;
    yield* descendants(child, name);
  }
}

/** What a volume says about its objects: as much of Turtle (W3C, "RDF 1.1 Turtle") as writers of AFF4 use. */
import { ImageError } from '../../src/base/errors.ts';

export interface Value {
  readonly kind: 'iri' | 'literal';
  readonly text: string;
  /** Of a literal, where it has one. */
  readonly type: string | null;
}

/** Values by predicate, by subject. */
export type Graph = ReadonlyMap<string, ReadonlyMap<string, readonly Value[]>>;

export const RDF_TYPE = 'http://www.w3.org/1999/02/22-rdf-syntax-ns#type';
const XSD = 'http://www.w3.org/2001/XMLSchema#';
const MOST_VALUES = 100_000;
const LONGEST_TOKEN = 65_536;

type Token =
  | { readonly kind: 'iri' | 'name' | 'number' | 'sign' | 'word'; readonly text: string; readonly at: number }
  | { readonly kind: 'text'; readonly text: string; readonly at: number };

const SPACE = /\s+|#[^\n]*/y;
const TOKENS: readonly (readonly [Exclude<Token['kind'], 'text'>, RegExp])[] = [
  ['iri', /<([^<>"{}|^`\\\s]*)>/y],
  ['name', /[\p{L}\p{N}_.-]{0,256}:(?:[\p{L}\p{N}_:-]|%[0-9A-Fa-f]{2}|\.(?=[\p{L}\p{N}_:%-])){0,4096}/uy],
  ['word', /@?(?:prefix|base)\b/iy],
  ['number', /[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?<!\.)/y],
  ['word', /@[A-Za-z]+(?:-[A-Za-z0-9]+)*|true\b|false\b|a(?=[\s<])/y],
  ['sign', /\^\^|[.;,[\]()]/y],
];
const QUOTES = ['"""', "'''", '"', "'"] as const;
const ESCAPES: Readonly<Record<string, string>> = { t: '\t', b: '\b', n: '\n', r: '\r', f: '\f' };

/** One token after the other; a long text costs no more than reading it once. */
class Tokens {
  readonly #text: string;
  readonly #file: string;
  #at = 0;
  #next: Token | null = null;

  constructor(text: string, file: string) {
    this.#text = text;
    this.#file = file;
    this.#next = this.#read();
  }

  peek(): Token | null {
    return this.#next;
  }

  take(): Token {
    const token = this.#next ?? this.fail('it ends early', this.#text.length);
    this.#next = this.#read();
    return token;
  }

  /** Whether the next token is that sign, which is then taken. */
  skip(sign: string): boolean {
    const token = this.#next;
    if (token === null || token.kind !== 'sign' || token.text !== sign) return false;
    this.take();
    return true;
  }

  expect(sign: string): void {
    if (!this.skip(sign)) this.fail(`"${sign}" is missing`, this.#next?.at ?? this.#text.length);
  }

  fail(why: string, at: number): never {
    const line = this.#text.slice(0, at).split('\n').length;
    throw new ImageError('corrupt', `information.turtle, line ${line}: ${why}`, { file: this.#file });
  }

  #match(pattern: RegExp): RegExpExecArray | null {
    pattern.lastIndex = this.#at;
    return pattern.exec(this.#text);
  }

  #read(): Token | null {
    for (let space = this.#match(SPACE); space !== null; space = this.#match(SPACE)) this.#at += space[0].length;
    if (this.#at >= this.#text.length) return null;
    const at = this.#at;
    const quote = QUOTES.find(each => this.#text.startsWith(each, at));
    if (quote !== undefined) return { kind: 'text', text: this.#quoted(quote), at };
    for (const [kind, pattern] of TOKENS) {
      const found = this.#match(pattern);
      if (found === null) continue;
      this.#at += found[0].length;
      return { kind, text: found[1] ?? found[0], at };
    }
    return this.fail(`${JSON.stringify(this.#text.slice(at, at + 10))} makes no sense`, at);
  }

  #quoted(quote: string): string {
    const begin = this.#at;
    let text = '';
    for (let at = begin + quote.length; ; ) {
      const stop = this.#text.slice(at, at + LONGEST_TOKEN).search(quote[0] === '"' ? /["\\]/ : /['\\]/);
      if (stop < 0 || text.length + stop > LONGEST_TOKEN) return this.fail('a text does not end', begin);
      text += this.#text.slice(at, at + stop);
      at += stop;
      if (this.#text.startsWith(quote, at)) {
        this.#at = at + quote.length;
        return text;
      }
      if (this.#text[at] === '\\') {
        const code = /^\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))/s.exec(this.#text.slice(at, at + 10));
        if (code === null) return this.fail('an escape is cut off', at);
        const point = Number.parseInt(code[1] ?? code[2] ?? '', 16);
        if (point > 0x10_ffff) return this.fail('an escape makes no sense', at);
        text += Number.isNaN(point) ? (ESCAPES[code[3]!] ?? code[3]!) : String.fromCodePoint(point);
        at += code[0].length;
      } else text += this.#text[at++]!;
    }
  }
}

class Reader {
  readonly #tokens: Tokens;
  readonly #prefixes = new Map<string, string>();
  readonly #graph = new Map<string, Map<string, Value[]>>();
  #base = '';
  #values = 0;
  #blanks = 0;

  constructor(tokens: Tokens) {
    this.#tokens = tokens;
  }

  read(): Graph {
    for (let token = this.#tokens.peek(); token !== null; token = this.#tokens.peek()) {
      if (token.kind === 'word' && /^@?(?:prefix|base)$/i.test(token.text)) this.#directive();
      else {
        this.#predicates(this.#subject());
        this.#tokens.expect('.');
      }
    }
    return this.#graph;
  }

  #directive(): void {
    const word = this.#tokens.take();
    const name = /prefix/i.test(word.text) ? this.#tokens.take() : null;
    if (name !== null && (name.kind !== 'name' || !name.text.endsWith(':'))) this.#tokens.fail('no prefix', name.at);
    const iri = this.#iri(this.#tokens.take());
    if (name === null) this.#base = iri;
    else this.#prefixes.set(name.text.slice(0, -1), iri);
    if (word.text.startsWith('@')) this.#tokens.expect('.');
  }

  #iri(token: Token): string {
    if (token.kind === 'iri') return /^[a-z][a-z0-9+.-]*:/i.test(token.text) ? token.text : this.#base + token.text;
    if (token.kind !== 'name') return this.#tokens.fail(`${JSON.stringify(token.text)} is no name`, token.at);
    const colon = token.text.indexOf(':');
    const prefix = token.text.slice(0, colon);
    if (prefix === '_') return token.text;
    const found = this.#prefixes.get(prefix);
    if (found === undefined) return this.#tokens.fail(`the prefix "${prefix}" is not known`, token.at);
    return found + token.text.slice(colon + 1);
  }

  #subject(): string {
    return this.#tokens.skip('[') ? this.#blank() : this.#iri(this.#tokens.take());
  }

  /** An object without a name, behind its opening bracket; objects in objects in objects are of no use here. */
  #blank(depth = 0): string {
    const name = `_:[${this.#blanks++}]`;
    const token = this.#tokens.peek();
    if (depth > 8) return this.#tokens.fail('too many objects in each other', token?.at ?? 0);
    if (!this.#tokens.skip(']')) {
      this.#predicates(name, depth);
      this.#tokens.expect(']');
    }
    return name;
  }

  #predicates(subject: string, depth = 0): void {
    const about = this.#graph.get(subject) ?? new Map<string, Value[]>();
    this.#graph.set(subject, about);
    for (;;) {
      const token = this.#tokens.peek();
      // A list may end with its separator, and what is in brackets may say nothing more.
      if (token === null || (token.kind === 'sign' && '.]'.includes(token.text))) return;
      this.#tokens.take();
      const predicate = token.kind === 'word' && token.text === 'a' ? RDF_TYPE : this.#iri(token);
      const values = about.get(predicate) ?? [];
      about.set(predicate, values);
      do {
        values.push(this.#value(depth));
        if (++this.#values > MOST_VALUES) this.#tokens.fail(`more than ${MOST_VALUES} statements`, token.at);
      } while (this.#tokens.skip(','));
      if (!this.#tokens.skip(';')) return;
      while (this.#tokens.skip(';'));
    }
  }

  #value(depth: number): Value {
    if (this.#tokens.skip('[')) return { kind: 'iri', text: this.#blank(depth + 1), type: null };
    const token = this.#tokens.take();
    if (token.kind === 'number') return { kind: 'literal', text: token.text, type: `${XSD}decimal` };
    if (token.kind === 'word') return { kind: 'literal', text: token.text, type: `${XSD}boolean` };
    if (token.kind !== 'text') return { kind: 'iri', text: this.#iri(token), type: null };
    if (this.#tokens.skip('^^')) return { kind: 'literal', text: token.text, type: this.#iri(this.#tokens.take()) };
    const language = this.#tokens.peek();
    if (language?.kind === 'word' && language.text.startsWith('@')) this.#tokens.take();
    return { kind: 'literal', text: token.text, type: null };
  }
}

/** 'corrupt' where it is no Turtle, or more of it than is known here (lists in parentheses). */
export const parseTurtle = (text: string, file: string): Graph => new Reader(new Tokens(text, file)).read();

/** The text form of LVM2 metadata (lvm.conf(5) describes the same syntax): nested sections of `name = value`. */
import { ImageError } from '../../base/errors.ts';

export type Value = string | number | readonly Value[];

/** A section; anything that is not as it should be is 'corrupt', with its path. */
export class Section {
  readonly path: string;
  readonly values = new Map<string, Value>();
  readonly sections = new Map<string, Section>();
  readonly #file: string;

  constructor(file: string, path: string) {
    this.#file = file;
    this.path = path;
  }

  #wrong(name: string, what: string): ImageError {
    return new ImageError('corrupt', `LVM metadata: ${this.path}/${name} ${what}`, { file: this.#file });
  }

  section(name: string): Section {
    const found = this.sections.get(name);
    if (found === undefined) throw this.#wrong(name, 'is missing');
    return found;
  }

  text(name: string): string {
    const value = this.values.get(name);
    if (typeof value !== 'string') throw this.#wrong(name, 'is no text');
    return value;
  }

  /** A whole number, not negative. */
  number(name: string, absent?: number): number {
    const value = this.values.get(name) ?? absent;
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw this.#wrong(name, 'is no number');
    return value;
  }

  list(name: string): readonly Value[] {
    const value = this.values.get(name);
    if (value === undefined || typeof value === 'string' || typeof value === 'number') {
      throw this.#wrong(name, 'is no list');
    }
    return value;
  }

  /** Words of a list: `["READ", "VISIBLE"]`. */
  words(name: string): readonly string[] {
    return this.values.has(name) ? this.list(name).filter(value => typeof value === 'string') : [];
  }

  /** Pairs of a name and a number, one after the other. */
  pairs(name: string): readonly (readonly [string, number])[] {
    const all = this.list(name);
    const pairs: [string, number][] = [];
    for (let i = 0; i + 1 < all.length; i += 2) {
      const [its, number] = [all[i], all[i + 1]];
      const sound =
        typeof its === 'string' && typeof number === 'number' && Number.isSafeInteger(number) && number >= 0;
      if (!sound) throw this.#wrong(name, 'is no list of names and numbers');
      pairs.push([its, number]);
    }
    return pairs;
  }
}

const DEEPEST = 8;
/** Space and comments, and after them a token; apart, so that no token is looked for inside a comment. */
const SPACE = /(?:\s+|#[^\n]*)*/y;
const TOKEN = /([A-Za-z_][\w.+-]*)|(-?\d+(?:\.\d+)?)|"((?:[^"\\]|\\.)*)"|([=[\]{},])/y;

type Token =
  | { readonly kind: 'name' | 'text'; readonly text: string }
  | { readonly kind: 'number'; readonly number: number }
  | { readonly kind: 'mark'; readonly text: string };

function* tokens(file: string, text: string): Generator<Token> {
  for (let at = 0; ; ) {
    SPACE.lastIndex = at;
    SPACE.test(text);
    TOKEN.lastIndex = SPACE.lastIndex;
    if (TOKEN.lastIndex === text.length) return;
    const found = TOKEN.exec(text);
    if (found === null) throw new ImageError('corrupt', 'LVM metadata are no sound text', { file, at });
    at = TOKEN.lastIndex;
    const [, name, number, quoted, mark] = found;
    if (name !== undefined) yield { kind: 'name', text: name };
    else if (number !== undefined) yield { kind: 'number', number: Number(number) };
    else if (quoted !== undefined) yield { kind: 'text', text: quoted.replace(/\\(.)/gs, '$1') };
    else yield { kind: 'mark', text: mark! };
  }
}

export function parseText(file: string, text: string): Section {
  const wrong = (what: string): ImageError => new ImageError('corrupt', `LVM metadata: ${what}`, { file });
  const stream = tokens(file, text);
  const next = (): Token => {
    const { value, done } = stream.next();
    if (done === true) throw wrong('the text ends early');
    return value;
  };
  const value = (token: Token, depth: number): Value => {
    if (token.kind === 'number') return token.number;
    if (token.kind === 'text') return token.text;
    if (token.kind !== 'mark' || token.text !== '[' || depth > DEEPEST) throw wrong('a value is missing');
    const items: Value[] = [];
    for (let item = next(); ; item = next()) {
      if (item.kind === 'mark' && item.text === ']') return items;
      if (item.kind === 'mark' && item.text === ',') continue;
      items.push(value(item, depth + 1));
    }
  };
  const into = (section: Section, depth: number): Section => {
    if (depth > DEEPEST) throw wrong('sections are nested too deep');
    for (;;) {
      const { value: token, done } = stream.next();
      if (done === true) {
        if (depth > 0) throw wrong(`the section ${section.path} does not end`);
        return section;
      }
      if (token.kind === 'mark' && token.text === '}' && depth > 0) return section;
      if (token.kind !== 'name') throw wrong(`a name is missing in ${section.path || 'the text'}`);
      const after = next();
      const path = section.path === '' ? token.text : `${section.path}/${token.text}`;
      if (after.kind === 'mark' && after.text === '{')
        section.sections.set(token.text, into(new Section(file, path), depth + 1));
      else if (after.kind === 'mark' && after.text === '=') section.values.set(token.text, value(next(), 0));
      else throw wrong(`${path} has no value`);
    }
  };
  return into(new Section(file, ''), 0);
}

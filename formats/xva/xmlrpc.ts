/** Values of XML-RPC (xmlrpc.com/spec), as far as `ova.xml` uses them. Numbers and dates stay text. */
import { ImageError } from '../../src/base/errors.ts';

export type Value = string | readonly Value[] | ReadonlyMap<string, Value>;

const DEEPEST = 64;
const ENTITIES: Readonly<Record<string, string>> = { lt: '<', gt: '>', amp: '&', quot: '"', apos: "'" };

function plainText(raw: string): string {
  return raw.replace(/&(#x?[0-9a-fA-F]{1,6}|[a-z]{2,4});/g, (whole, name: string) => {
    if (!name.startsWith('#')) return ENTITIES[name] ?? whole;
    const code = name[1] === 'x' ? Number.parseInt(name.slice(2), 16) : Number.parseInt(name.slice(1), 10);
    return code <= 0x10_ffff ? String.fromCodePoint(code) : whole;
  });
}

interface Token {
  /** `value`, `/value`, `value/`; null at the end. */
  readonly tag: string | null;
  /** Text before the tag. */
  readonly before: string;
}

class Reader {
  readonly #xml: string;
  readonly #file: string;
  readonly #tags = /<(?:\?[^>]*|!--[\s\S]*?--|(\/?)([A-Za-z][\w.-]*)[^>]*?(\/?))>/g;
  #at = 0;

  constructor(xml: string, file: string) {
    this.#xml = xml;
    this.#file = file;
  }

  fail(what: string): never {
    throw new ImageError('corrupt', `ova.xml: ${what}`, { file: this.#file, field: 'ova.xml' });
  }

  next(): Token {
    for (let found = this.#tags.exec(this.#xml); found !== null; found = this.#tags.exec(this.#xml)) {
      const [whole, closing, name, empty] = found;
      const before = this.#xml.slice(this.#at, found.index);
      this.#at = found.index + whole.length;
      if (name !== undefined) return { tag: `${closing}${name}${empty}`, before };
    }
    return { tag: null, before: '' };
  }

  expect(tag: string): string {
    const { tag: got, before } = this.next();
    if (got !== tag) this.fail(`<${tag}> is expected where <${got ?? 'the end'}> stands`);
    return before;
  }
}

function readStruct(reader: Reader, depth: number): Value {
  const members = new Map<string, Value>();
  for (let { tag } = reader.next(); tag !== '/struct'; { tag } = reader.next()) {
    if (tag !== 'member') reader.fail('a struct has something else than members');
    reader.expect('name');
    const name = plainText(reader.expect('/name'));
    const { tag: value } = reader.next();
    // Test images of other tools leave the value out.
    const isEmpty = value === 'value/' || value === '/member';
    members.set(name, isEmpty ? '' : readValue(reader, depth + 1));
    if (value !== '/member') reader.expect('/member');
  }
  return members;
}

function readArray(reader: Reader, depth: number): Value {
  const values: Value[] = [];
  const { tag: data } = reader.next();
  if (data !== 'data/') {
    for (let { tag } = reader.next(); tag !== '/data'; { tag } = reader.next()) {
      if (tag === null) reader.fail('an array does not end');
      values.push(tag === 'value/' ? '' : readValue(reader, depth + 1));
    }
  }
  reader.expect('/array');
  return values;
}

/** What stands between `<value>`, which was read, and its end, which is read too. */
function readValue(reader: Reader, depth: number): Value {
  if (depth > DEEPEST) reader.fail('values lie too deep in each other');
  const { tag, before } = reader.next();
  if (tag === '/value') return plainText(before);
  let value: Value = '';
  if (tag === null) reader.fail('a value does not end');
  else if (tag === 'struct') value = readStruct(reader, depth);
  else if (tag === 'array') value = readArray(reader, depth);
  else if (tag === 'struct/') value = new Map();
  else if (tag === 'array/') value = [];
  else if (!tag.endsWith('/')) value = plainText(reader.expect(`/${tag}`));
  reader.expect('/value');
  return value;
}

/** The one value of the text. 'corrupt' when it is not XML-RPC. */
export function parseValue(xml: string, file: string): Value {
  const reader = new Reader(xml, file);
  reader.expect('value');
  return readValue(reader, 0);
}

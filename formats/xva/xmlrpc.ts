/** Values of XML-RPC (xmlrpc.com/spec), as far as `ova.xml` uses them. Numbers and dates stay text. */
import { ImageError } from '../../src/base/errors.ts';
import { type Element, parseXml } from '../../src/base/xml.ts';

export type Value = string | readonly Value[] | ReadonlyMap<string, Value>;

type Fail = (what: string) => never;

const only = (parent: Element, name: string): Element | null =>
  parent.children.length === 1 && parent.children[0]!.name === name ? parent.children[0]! : null;

function structOf(struct: Element, fail: Fail): Value {
  const members = new Map<string, Value>();
  for (const { name: what, children } of struct.children) {
    const [name, value] = children;
    if (what !== 'member' || name?.name !== 'name' || children.length > 2)
      return fail('a struct has something else than members');
    // Test images of other tools leave the value out.
    members.set(name.text, value === undefined ? '' : read(value, fail));
  }
  return members;
}

function read(value: Element, fail: Fail): Value {
  if (value.name !== 'value') return fail(`<${value.name}> stands where a value should`);
  const [typed, ...others] = value.children;
  if (typed === undefined) return value.text;
  if (others.length > 0) return fail('a value holds several');
  if (typed.name === 'struct') return structOf(typed, fail);
  if (typed.name !== 'array')
    return typed.children.length === 0 ? typed.text : fail('a value holds something else than text');
  if (typed.children.length === 0) return [];
  const data = only(typed, 'data') ?? fail('an array has something else than data');
  return data.children.map(each => read(each, fail));
}

/** The one value of the text. 'corrupt' when it is not XML-RPC. */
export function parseValue(xml: string, file: string): Value {
  const fail: Fail = what => {
    throw new ImageError('corrupt', `ova.xml: ${what}`, { file, field: 'ova.xml' });
  };
  return read(parseXml(xml, `${file}:ova.xml`), fail);
}

import { describe, expect, test } from 'vitest';
import { descendants, parseXml } from './xml.ts';

const parse = (text: string) => parseXml(new TextEncoder().encode(text), 'x.xml');

describe('XML that programs write', () => {
  test('elements, text, references, comments and attributes', () => {
    const root = parse(`\ufeff<?xml version="1.0"?><!-- <a> --><r x='1' n:y = "a>b &amp; &lt;c>">
      <a> one &amp; &#x32;&#51; </a><b/><a><![CDATA[<raw & plain>]]></a><c:d.e-f_g ></c:d.e-f_g></r>\n`);
    const element = (name: string, text = '') => ({ name, text, attributes: new Map(), children: [] });
    expect(root).toEqual({
      name: 'r',
      text: '',
      attributes: new Map([
        ['x', '1'],
        ['y', 'a>b & <c>'],
      ]),
      children: [element('a', 'one & 23'), element('b'), element('a', '<raw & plain>'), element('d.e-f_g')],
    });
    expect([...descendants(parse('<r><x:a>1</x:a><b><a>2<a>3</a></a></b></r>'), 'a')].map(({ text }) => text)).toEqual([
      '1',
      '2',
      '3',
    ]);
  });

  test.each([
    ['nothing', ''],
    ['text alone', 'abc'],
    ['an open element', '<a><b></b>'],
    ['crossed elements', '<a><b></a></b>'],
    ['an end alone', '</a>'],
    ['two roots', '<a/><b/>'],
    ['text behind the root', '<a/>b'],
    ['a document type', '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>'],
    ['an entity of its own', '<a>&x;</a>'],
    ['an inherited name as an entity', '<a>&constructor;</a>'],
    ['a bare ampersand', '<a>b & c</a>'],
    ['an impossible character', '<a>&#xd800;</a>'],
    ['an attribute without value', '<a b></a>'],
    ['another prefix at the end', '<x:a></y:a>'],
    ['an entity of its own in an attribute', '<a b="&x;"></a>'],
    ['a comment without end', '<a><!-- </a>'],
    ['a torn tag', '<a><b</a>'],
  ])('%s is refused', (_name, text) => {
    expect(() => parse(text)).toThrowError(expect.objectContaining({ fault: 'corrupt' }));
  });

  test('what is not UTF-8, too deep, too long or too many is refused in short time', () => {
    const started = performance.now();
    const refused = (raw: Uint8Array) =>
      expect(() => parseXml(raw, 'x')).toThrowError(expect.objectContaining({ fault: 'corrupt' }));
    const text = (content: string): Uint8Array => new TextEncoder().encode(content);
    refused(Uint8Array.of(0x3c, 0x61, 0x3e, 0xff, 0xfe));
    refused(text('<a>'.repeat(100_000)));
    refused(text(`<a>${'<b/>'.repeat(200_001)}</a>`));
    refused(new Uint8Array(9 * 2 ** 20));
    refused(text(`<a ${' '.repeat(1_000_000)}`));
    refused(text(`<a ${'b="c" '.repeat(100_000)}`));
    refused(text(`<!--${'-'.repeat(1_000_000)}`));
    refused(text(`<a>${'&'.repeat(4_000_000)}`));
    refused(text(`<a b="${'&'.repeat(4_000_000)}"/>`));
    expect(performance.now() - started).toBeLessThan(5000);
  });
});

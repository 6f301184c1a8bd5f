/** Names: from a file system's bytes to text without loss, and from there to what a mount can show. */
import { isUtf8 } from 'node:buffer';

/** Lone surrogates U+DC80…U+DCFF stand for the bytes 0x80…0xff that are no part of UTF-8. */
const BYTE = 0xdc00;

/** Length of the UTF-8 sequence at `at`; 0 when the byte there starts none. */
function sequenceAt(bytes: Uint8Array, at: number): number {
  const lead = bytes[at]!;
  const length = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
  return length > 0 && at + length <= bytes.length && isUtf8(bytes.subarray(at, at + length)) ? length : 0;
}

/** Text of bytes that should be UTF-8; two different byte strings never give the same text. */
export function nameOf(bytes: Uint8Array): string {
  if (isUtf8(bytes)) return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('utf8');
  let text = '';
  for (let at = 0; at < bytes.length; ) {
    const length = sequenceAt(bytes, at);
    if (length === 0) text += String.fromCharCode(BYTE + bytes[at]!);
    else text += Buffer.from(bytes.subarray(at, at + length)).toString('utf8');
    at += Math.max(1, length);
  }
  return text;
}

/** The bytes that `nameOf` made this text of; null when it cannot have been. */
export function nameBytes(name: string): Buffer | null {
  const parts: Buffer[] = [];
  let from = 0;
  for (let i = 0; i < name.length; i++) {
    const code = name.charCodeAt(i);
    if (code >= 0xd800 && code < BYTE && i + 1 < name.length) {
      const next = name.charCodeAt(i + 1);
      if (next >= BYTE && next < 0xe000) i++;
      continue;
    }
    if (code < BYTE + 0x80 || code > BYTE + 0xff) continue;
    parts.push(Buffer.from(name.slice(from, i), 'utf8'), Buffer.of(code - BYTE));
    from = i + 1;
  }
  const bytes = Buffer.concat([...parts, Buffer.from(name.slice(from), 'utf8')]);
  return nameOf(bytes) === name ? bytes : null;
}

const hex = (n: number, digits: number): string => n.toString(16).padStart(digits, '0');
const LONE = /[\0/]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
/** A backslash that would look like an escape. */
const LOOKALIKE = /\\(?=x[0-9a-f]{2}|u[0-9a-f]{4})/g;
const LONGEST = 255;

/** Cuts to so many bytes of UTF-8, at a character. */
function clipped(text: string, most: number): string {
  let used = 0;
  let end = 0;
  for (const char of text) {
    used += Buffer.byteLength(char);
    if (used > most) break;
    end += char.length;
  }
  return text.slice(0, end);
}

/** FNV-1a over UTF-16 units: tells apart names whose beginnings are the same. */
function mark(text: string): string {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193) >>> 0;
  return hex(h, 8);
}

/**
 * The name under which a mount shows an entry: what a path cannot hold (`/`, NUL, bytes that are not UTF-8, the names
 * `.` and `..`) is written `\xNN` or `\uNNNN`. Different names stay different. Names beyond 255 bytes end in a digest.
 */
export function shownName(name: string): string {
  if (name === '') return '\\x';
  if (name === '.' || name === '..') return name.replaceAll('.', '\\x2e');
  const shown = name.replace(LOOKALIKE, '\\x5c').replace(LONE, char => {
    const code = char.charCodeAt(0);
    if (code < 0x80) return `\\x${hex(code, 2)}`;
    return code >= 0xdc80 && code <= 0xdcff ? `\\x${hex(code - BYTE, 2)}` : `\\u${hex(code, 4)}`;
  });
  return Buffer.byteLength(shown) <= LONGEST ? shown : `${clipped(shown, LONGEST - 9)}~${mark(shown)}`;
}

/** A label or other fixed field: up to the first NUL, without spaces around it. */
export function fieldText(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return nameOf(end < 0 ? bytes : bytes.subarray(0, end)).trim();
}

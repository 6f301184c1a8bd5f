/**
 * Fixed-layout on-disk structures, written the way the specifications print them: one line per field,
 * `name: [offset, type]`. The layout is checked once, when the module loads; the type is inferred from it.
 */
import { ImageError } from './errors.ts';

/** How one value lies in bytes; `at` is an absolute position in the view. */
export interface Field<T> {
  readonly size: number;
  read(view: DataView, at: number): T;
  write(view: DataView, at: number, value: T): void;
}

type AnyField = {
  readonly size: number;
  read(view: DataView, at: number): unknown;
  write(view: DataView, at: number, value: never): void;
};
type Layout = Readonly<Record<string, readonly [offset: number, field: AnyField]>>;
type Value<F> = F extends { read(view: DataView, at: number): infer T } ? T : never;
type Parsed<L extends Layout> = { readonly [K in keyof L]: Value<L[K][1]> };

export interface Struct<T> extends Field<T> {
  readonly name: string;
  /** Faults name the structure, the field and, when given, the file. */
  parse(bytes: Uint8Array, at?: number, file?: string): T;
  build(value: T): Uint8Array<ArrayBuffer>;
  /** Byte offset of a field, for checksums that skip themselves. */
  offsetOf(field: keyof T & string): number;
}

export const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

export function struct<const L extends Layout>(name: string, size: number, layout: L): Struct<Parsed<L>> {
  const fields = Object.entries(layout);
  let end = 0;
  for (const [key, [offset, field]] of fields) {
    if (offset < end) throw new TypeError(`${name}.${key} overlaps the field before it`);
    end = offset + field.size;
  }
  if (end > size) throw new TypeError(`${name} ends at ${end}, past its size ${size}`);

  const read = (view: DataView, at: number, file?: string): Parsed<L> => {
    const where = file === undefined ? {} : { file };
    if (at + size > view.byteLength) {
      throw new ImageError('corrupt', `${name} needs ${size} bytes, ${Math.max(0, view.byteLength - at)} are there`, {
        ...where,
        at,
      });
    }
    const out: Record<string, unknown> = {};
    for (const [key, [offset, field]] of fields) {
      try {
        out[key] = field.read(view, at + offset);
      } catch (cause) {
        const why = cause instanceof Error ? cause.message : String(cause);
        throw new ImageError(
          'corrupt',
          `${name}: ${key}: ${why}`,
          { ...where, at: at + offset, field: key },
          { cause },
        );
      }
    }
    return out as Parsed<L>;
  };
  return {
    name,
    size,
    read,
    write(view, at, value) {
      for (const [key, [offset, field]] of fields) field.write(view, at + offset, value[key] as never);
    },
    parse: (bytes, at = 0, file) => read(viewOf(bytes), at, file),
    build(value) {
      const bytes = new Uint8Array(size);
      const view = viewOf(bytes);
      for (const [key, [offset, field]] of fields) field.write(view, offset, value[key] as never);
      return bytes;
    },
    offsetOf: key => layout[key]![0],
  };
}

/** A u64 from its halves; refused beyond 2^53, since offsets and sizes are numbers here. */
export function safeU64(high: number, low: number): number {
  if (high > 0x1f_ffff) throw new RangeError(`0x${((BigInt(high) << 32n) | BigInt(low)).toString(16)} is beyond 2^53`);
  return high * 0x1_0000_0000 + low;
}

const u16 = (le: boolean): Field<number> => ({
  size: 2,
  read: (v, at) => v.getUint16(at, le),
  write: (v, at, x) => v.setUint16(at, x, le),
});
const u32 = (le: boolean): Field<number> => ({
  size: 4,
  read: (v, at) => v.getUint32(at, le),
  write: (v, at, x) => v.setUint32(at, x, le),
});
const u64 = (le: boolean): Field<number> => ({
  size: 8,
  read: (v, at) => safeU64(v.getUint32(le ? at + 4 : at, le), v.getUint32(le ? at : at + 4, le)),
  write: (v, at, x) => v.setBigUint64(at, BigInt(x), le),
});
const bits64 = (le: boolean): Field<bigint> => ({
  size: 8,
  read: (v, at) => v.getBigUint64(at, le),
  write: (v, at, x) => v.setBigUint64(at, x, le),
});

export const u8: Field<number> = { size: 1, read: (v, at) => v.getUint8(at), write: (v, at, x) => v.setUint8(at, x) };
export const u16le = u16(true);
export const u16be = u16(false);
export const u32le = u32(true);
export const u32be = u32(false);
export const i32le: Field<number> = {
  size: 4,
  read: (v, at) => v.getInt32(at, true),
  write: (v, at, x) => v.setInt32(at, x, true),
};
export const u64le = u64(true);
export const u64be = u64(false);
/** Feature masks and other words that are not numbers. */
export const bits64le = bits64(true);
export const bits64be = bits64(false);

/** A copy of the bytes, so that a parsed structure outlives its buffer. */
export const bytes = (size: number): Field<Uint8Array> => ({
  size,
  read: (v, at) => new Uint8Array(v.buffer, v.byteOffset + at, size).slice(),
  write: (v, at, x) => new Uint8Array(v.buffer, v.byteOffset + at, size).set(x),
});

/** A fixed magic, one character per byte: reading anything else is an error. */
export const magic = <const S extends string>(text: S): Field<S> => ({
  size: text.length,
  read: (v, at) => {
    for (let i = 0; i < text.length; i++) {
      if (v.getUint8(at + i) !== text.charCodeAt(i)) throw new RangeError(`is not ${JSON.stringify(text)}`);
    }
    return text;
  },
  write: (v, at) => {
    for (let i = 0; i < text.length; i++) v.setUint8(at + i, text.charCodeAt(i));
  },
});

/** A number that stands for a name; an unknown number is an error. */
export const oneOf = <const M extends Record<string, number>>(
  field: Field<number>,
  names: M,
): Field<keyof M & string> => {
  const byNumber = new Map(Object.entries(names).map(([name, n]) => [n, name]));
  return {
    size: field.size,
    read: (v, at) => {
      const n = field.read(v, at);
      const name = byNumber.get(n);
      if (name === undefined)
        throw new RangeError(
          `${n} is none of ${Object.entries(names)
            .map(([k, x]) => `${x} (${k})`)
            .join(', ')}`,
        );
      return name;
    },
    write: (v, at, name) => field.write(v, at, names[name]!),
  };
};

export const arrayOf = <T>(field: Field<T>, count: number): Field<readonly T[]> => ({
  size: field.size * count,
  read: (v, at) => Array.from({ length: count }, (_, i) => field.read(v, at + i * field.size)),
  write: (v, at, values) => {
    for (const [i, value] of values.entries()) field.write(v, at + i * field.size, value);
  },
});

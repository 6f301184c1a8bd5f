/** xxHash, 32 bits (doc/xxhash_spec.md of the xxHash project), continued from part to part. */
import { viewOf } from '../struct.ts';

const P1 = 0x9e3779b1;
const P2 = 0x85ebca77;
const P3 = 0xc2b2ae3d;
const P4 = 0x27d4eb2f;
const P5 = 0x165667b1;

const rotate = (x: number, by: number): number => (x << by) | (x >>> (32 - by));
const round = (lane: number, input: number): number => Math.imul(rotate((lane + Math.imul(input, P2)) | 0, 13), P1);

export interface XxHash {
  update(data: Uint8Array): void;
  digest(): number;
  copy(): XxHash;
}

interface State {
  readonly lanes: [number, number, number, number];
  readonly rest: Uint8Array;
  held: number;
  total: number;
}

function from(state: State): XxHash {
  const { lanes, rest } = state;
  /** Whole stripes of 16 bytes from `at` on; gives where they end. */
  const stripes = (data: Uint8Array, at: number): number => {
    let [a, b, c, d] = lanes;
    const view = viewOf(data);
    for (; at + 16 <= data.length; at += 16) {
      a = round(a, view.getInt32(at, true));
      b = round(b, view.getInt32(at + 4, true));
      c = round(c, view.getInt32(at + 8, true));
      d = round(d, view.getInt32(at + 12, true));
    }
    [lanes[0], lanes[1], lanes[2], lanes[3]] = [a, b, c, d];
    return at;
  };
  return {
    update(data) {
      state.total += data.length;
      let at = 0;
      if (state.held > 0) {
        at = Math.min(16 - state.held, data.length);
        rest.set(data.subarray(0, at), state.held);
        state.held += at;
        if (state.held < 16) return;
        stripes(rest, 0);
      }
      at = stripes(data, at);
      state.held = data.length - at;
      rest.set(data.subarray(at));
    },
    digest() {
      const [a, b, c, d] = lanes;
      const start = state.total >= 16 ? rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18) : P5;
      let hash = (start + state.total) | 0;
      let at = 0;
      for (; at + 4 <= state.held; at += 4) {
        hash = Math.imul(rotate((hash + Math.imul(viewOf(rest).getInt32(at, true), P3)) | 0, 17), P4);
      }
      for (; at < state.held; at++) hash = Math.imul(rotate((hash + Math.imul(rest[at]!, P5)) | 0, 11), P1);
      hash = Math.imul(hash ^ (hash >>> 15), P2);
      hash = Math.imul(hash ^ (hash >>> 13), P3);
      return (hash ^ (hash >>> 16)) >>> 0;
    },
    copy: () => from({ lanes: [...lanes], rest: rest.slice(), held: state.held, total: state.total }),
  };
}

/** With the seed 0, as LZ4 frames have it. */
export const xxhash = (): XxHash =>
  from({ lanes: [(P1 + P2) | 0, P2 | 0, 0, -P1 | 0], rest: new Uint8Array(16), held: 0, total: 0 });

export function xxhash32(data: Uint8Array): number {
  const hash = xxhash();
  hash.update(data);
  return hash.digest();
}

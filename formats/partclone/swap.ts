/** Swap areas are saved as their UUID and label alone; a restore makes them anew (mkswap(8)), and so is done here. */
import type { Bytes } from '../../src/base/contracts.ts';
import { viewOf } from '../../src/base/struct.ts';

const PAGE = 4096;
const SIGNATURE = 'SWAPSPACE2';

/** First page of a swap area of `length` bytes; `text` is `UUID="…"` and `LABEL="…"`. */
export function swapHeader(text: string, length: Bytes): Uint8Array {
  const page = new Uint8Array(PAGE);
  const view = viewOf(page);
  view.setUint32(1024, 1, true);
  view.setUint32(1028, Math.min(0xffff_ffff, Math.max(0, Math.floor(length / PAGE) - 1)), true);
  const uuid = /^UUID="?([0-9A-Fa-f-]{36})"?/m.exec(text)?.[1] ?? '';
  page.set(Buffer.from(uuid.replaceAll('-', ''), 'hex').subarray(0, 16), 1036);
  const label = /^LABEL="?([^"\n]*)"?/m.exec(text)?.[1] ?? '';
  page.set(Buffer.from(label).subarray(0, 16), 1052);
  page.set(Buffer.from(SIGNATURE, 'latin1'), PAGE - SIGNATURE.length);
  return page;
}

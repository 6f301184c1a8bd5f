/** Long indexes: pages, the borders between what is read at once, orders, and checks that come late. */
import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { memorySource } from '../../src/base/assemble.ts';
import { ABSENT, PACKED, ZERO } from '../../src/base/block-layer.ts';
import type { ByteSource } from '../../src/base/contracts.ts';
import { random } from '../../test/kit/random.ts';
import { type BlockIndex, deltaIndex, fullIndex, indexPlace } from './index-table.ts';

interface Model {
  readonly block: number;
  readonly length: number;
}

/** The payload of an index with three reserved elements before the others. */
function payloadOf(elements: readonly Model[], count: number, delta: boolean): Buffer {
  const size = delta ? 34 : 30;
  const raw = Buffer.alloc(4 + 90 + 4 + count * size);
  raw.writeUInt32LE(3);
  raw.writeUInt32LE(count, 94);
  for (const [i, { block, length }] of elements.entries()) {
    const at = 98 + (delta ? i : block) * size;
    raw.writeUInt32LE(block * 7, at);
    raw.writeUInt32LE(length, at + 24);
    if (delta) raw.writeUInt32LE(block, at + 30);
  }
  return raw;
}

async function placeOf(payload: Buffer, delta: boolean, digest = createHash('md5').update(payload).digest()) {
  const source = memorySource('f', payload);
  const block = { name: '$INDEX', at: 0, payloadAt: 0, length: payload.length, md5: digest, flags: 1 };
  return indexPlace(source, block, delta);
}

const never = new AbortController().signal;

async function kindAt(index: BlockIndex, block: number): Promise<number> {
  const known = index.at(block);
  if (known !== null) return known;
  await index.load(block);
  return index.at(block)!;
}

/** 40,000 of 200,000 blocks, some of them zeros: more than one page and more than what is read at once. */
function manyBlocks(): Model[] {
  const { below } = random(21);
  const found: Model[] = [];
  for (let block = below(5); block < 200_000 && found.length < 40_000; block += 1 + below(9))
    found.push({ block, length: below(4) === 0 ? 0 : 100 + below(1000) });
  return found;
}

async function agrees(index: BlockIndex, elements: readonly Model[], kinds: (block: number) => number): Promise<void> {
  const { below, pick } = random(22);
  const known = new Map(elements.map(element => [element.block, element]));
  for (let i = 0; i < 3000; i++) {
    const block = i % 2 === 0 ? below(200_000) : pick(elements).block;
    expect(await kindAt(index, block)).toBe(kinds(block));
    const element = known.get(block);
    if (element !== undefined && element.length > 0)
      expect(await index.element(block)).toMatchObject({ fileAt: block * 7, length: element.length });
  }
}

describe('delta', () => {
  const elements = manyBlocks();
  const known = new Map(elements.map(element => [element.block, element]));
  const kinds = (inherited: number) => (block: number) => {
    const element = known.get(block);
    if (element !== undefined) return element.length === 0 ? ZERO : PACKED;
    return block < inherited ? ABSENT : ZERO;
  };

  test('every block of a long one, and where the next one is', async () => {
    const place = await placeOf(payloadOf(elements, elements.length, true), true);
    expect(place.block.length).toBeGreaterThan(1_048_576);
    const index = deltaIndex(place, 200_000, 150_000, never);
    await agrees(index, elements, kinds(150_000));
    // `next` may stop early, and never skips a block that is another kind.
    let wrong = 0;
    for (let block = 0; block < 200_000; ) {
      const kind = await kindAt(index, block);
      const next = index.next!(block);
      if (next <= block) throw new Error(`next(${block}) is ${next}`);
      for (let skipped = block; skipped < next; skipped++) if (kinds(150_000)(skipped) !== kind) wrong++;
      block = next;
    }
    expect(wrong).toBe(0);
    await expect(index.element(199_999)).rejects.toMatchObject({ fault: 'out-of-range' });
  });

  test('in another order', async () => {
    const { below } = random(23);
    const shuffled = elements.map(element => ({ element, key: below(2 ** 32) })).sort((a, b) => a.key - b.key);
    const raw = payloadOf(
      shuffled.map(({ element }) => element),
      elements.length,
      true,
    );
    await agrees(deltaIndex(await placeOf(raw, true), 200_000, 150_000, never), elements, kinds(150_000));
  });

  test('empty', async () => {
    const index = deltaIndex(await placeOf(payloadOf([], 0, true), true), 100, 60, never);
    expect([await kindAt(index, 0), index.next!(0), await kindAt(index, 60), index.next!(60)]).toEqual([
      ABSENT,
      60,
      ZERO,
      100,
    ]);
  });

  test('a block that the partition does not have, and a wrong MD5', async () => {
    const raw = payloadOf(elements, elements.length, true);
    await expect(deltaIndex(await placeOf(raw, true), 1000, 0, never).load(0)).rejects.toThrow(
      /names block \d+ of 1000/,
    );
    const wrong = deltaIndex(await placeOf(raw, true, Buffer.alloc(16)), 200_000, 0, never);
    await expect(wrong.load(0)).rejects.toThrow('$INDEX fails its MD5');
    expect(wrong.at(0)).toBeNull();
  });
});

describe('full', () => {
  const elements = manyBlocks();
  const known = new Map(elements.map(element => [element.block, element]));

  test('every block of a long one', async () => {
    const index = fullIndex(await placeOf(payloadOf(elements, 200_000, false), false), never);
    await agrees(index, elements, block => ((known.get(block)?.length ?? 0) === 0 ? ZERO : PACKED));
  });

  test('a wrong MD5 is found before the first answer', async () => {
    const raw = payloadOf(elements, 200_000, false);
    const index = fullIndex(await placeOf(raw, false, Buffer.alloc(16)), never);
    await expect(index.load(7)).rejects.toThrow('$INDEX fails its MD5');
    expect(index.at(7)).toBeNull();
    await expect(index.load(7)).rejects.toThrow('$INDEX fails its MD5');
  });

  test('a read that fails once does not last', async () => {
    const raw = payloadOf(elements, 200_000, false);
    const good = await placeOf(raw, false);
    let failures = 1;
    const flaky: ByteSource = {
      ...good.source,
      read(into, at) {
        if (at > 1_048_576 && failures-- > 0) throw new Error('cable');
        return good.source.read(into, at);
      },
    };
    const index = fullIndex({ ...good, source: flaky }, never);
    await expect(index.load(7)).rejects.toThrow('cable');
    await index.load(7);
    expect(index.at(7)).not.toBeNull();
  });

  test('one too long to be waited for answers at once, and stops answering when its MD5 turns out wrong', async () => {
    const count = Math.ceil(68_000_000 / 30);
    const raw = payloadOf(elements, count, false);
    const good = fullIndex(await placeOf(raw, false), never);
    expect(await kindAt(good, elements[5]!.block)).toBe(elements[5]!.length === 0 ? ZERO : PACKED);
    const wrong = fullIndex(await placeOf(raw, false, Buffer.alloc(16)), never);
    await wrong.load(7);
    expect(wrong.at(7)).not.toBeNull();
    await expect
      .poll(
        () =>
          wrong.load(7).then(
            () => 'fine',
            (error: Error) => error.message,
          ),
        { timeout: 20_000, interval: 50 },
      )
      .toBe('$INDEX fails its MD5');
    expect(() => wrong.at(7)).toThrow('$INDEX fails its MD5');
  });
});

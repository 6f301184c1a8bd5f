import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import type { DirNode, LinkNode, Node } from '../../base/contracts.ts';
import { readJournal } from './journal.ts';
import { inodeOf, Table } from './nodes.ts';
import { ROOT_ID } from './protocol.ts';

const mtime = new Date(0);
const link: LinkNode = { kind: 'link', mtime, target: 'x' };
const dir = (children: Record<string, Node> = {}): DirNode => ({
  kind: 'dir',
  mtime,
  mode: 0o555,
  list: async () => [],
  child: async name => children[name] ?? null,
});
const file = (): string => path.join(fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-nodes-')), 'nodes');

describe('node ids', () => {
  it('live as long as the kernel remembers them', () => {
    const table = Table.fresh(dir(), undefined);
    const root = table.entry(ROOT_ID)!;
    const a = table.give(root, 'a', link);
    expect(table.give(root, 'a', link)).toBe(a);
    table.forget(a.id, 1);
    expect(table.entry(a.id)).toBe(a);
    table.forget(a.id, 1);
    expect(table.entry(a.id)).toBeUndefined();
    expect(table.give(root, 'a', link).id).not.toBe(a.id);
    table.forget(ROOT_ID, 10);
    expect(table.entry(ROOT_ID)).toBe(root);
  });

  it('change with the kind of thing', () => {
    const table = Table.fresh(dir(), undefined);
    const root = table.entry(ROOT_ID)!;
    const before = table.give(root, 'a', link);
    const after = table.give(root, 'a', dir());
    expect(after.id).not.toBe(before.id);
    table.forget(before.id, 1);
    expect(table.give(root, 'a', dir())).toBe(after);
  });

  it('of links that point elsewhere are others, also after a take-over', () => {
    const at = file();
    const table = Table.fresh(dir(), at);
    const root = table.entry(ROOT_ID)!;
    const before = table.give(root, 'a', link);
    const other = table.give(root, 'b', link);
    expect(table.give(root, 'b', { ...link, target: 'y' }).id).not.toBe(other.id);
    table.give(table.give(root, 'dir', dir()), 'within', link);
    table.give(root, 'file of a backup', { ...link, recorded: { uid: 0, gid: 0, links: 1 } });
    table.commit();
    const next = Table.resumed(dir(), at);
    const top = next.entry(ROOT_ID)!;
    expect(new Set([...next.links()].map(({ parent, name }) => `${parent} ${name}`))).toEqual(
      new Set(['1 a', '1 b', `${next.give(top, 'dir', dir()).id} within`]),
    );
    expect(next.give(top, 'a', link).id).toBe(before.id);
    expect(next.give(top, 'a', { ...link, target: 'longer' }).id).not.toBe(before.id);
  });

  it('keep the nodes of few files of a backup, and of all else', () => {
    const recorded = { uid: 0, gid: 0, links: 1 };
    const table = Table.fresh(dir(), undefined);
    const root = table.entry(ROOT_ID)!;
    const plain = table.give(root, 'plain', link);
    const entries = Array.from({ length: 3000 }, (_, i) => table.give(root, `${i}`, { ...link, recorded }));
    expect(entries.filter(({ node }) => node !== null)).toEqual(entries.slice(-1024));
    expect(plain.node).toBe(link);
    table.found(entries[0]!, { ...link, recorded });
    expect([entries[0]!.node, entries.at(-1024)!.node]).toEqual([{ ...link, recorded }, null]);
  });

  it('have their paths also where a folder above was forgotten before', () => {
    const at = file();
    const table = Table.fresh(dir(), at);
    const above = table.give(table.entry(ROOT_ID)!, 'above', dir());
    const within = table.give(above, 'within', link);
    table.forget(above.id, 1);
    expect(within.path).toBe('/above/within');
    fs.writeFileSync(at, `["n",${within.id},"/above/within","x"]\n`);
    const next = Table.resumed(dir(), at);
    expect(next.entry(within.id)?.path).toBe('/above/within');
    expect([...next.links()]).toEqual([]);
    expect(next.give(next.entry(ROOT_ID)!, 'above', dir()).id).toBeGreaterThan(within.id);
  });

  it('stand for inodes that depend on the path alone', () => {
    expect(inodeOf('')).toBe(1);
    expect(inodeOf('/a')).toBe(inodeOf('/a'));
    expect(inodeOf('/a')).not.toBe(inodeOf('/b'));
    expect(Number.isSafeInteger(inodeOf('/a'))).toBe(true);
  });
});

describe('the record of a mount', () => {
  it('brings back ids, paths and handles', () => {
    const at = file();
    const table = Table.fresh(dir(), at);
    const a = table.give(table.entry(ROOT_ID)!, 'a\nb"', dir());
    const b = table.give(a, 'b', link);
    const kept = [table.open(a, 0, 'u1', null), table.open(b, 2, 'u2', null), table.open(b, 0, 'u3', null)];
    table.connection = { minor: 42, resend: true, maxIo: 1 };
    table.close(kept[1]!);
    table.commit();
    table.give(a, 'never answered', link);

    const next = Table.resumed(dir(), at);
    expect(next.entry(b.id)).toMatchObject({ path: '/a\nb"/b', node: null });
    expect([...next.handles()].map(({ fh, id, unique }) => [fh, id, unique])).toEqual([
      [0, a.id, 'u1'],
      [2, b.id, 'u3'],
    ]);
    expect(next.madeBy('u3')?.fh).toBe(2);
    expect(next.connection).toEqual({ minor: 42, resend: true, maxIo: 1 });
    expect(next.open(next.entry(a.id)!, 0, 'u4', null).fh).toBe(1);
    // How often the kernel was told is not known any more, so these stay.
    next.forget(b.id, 1000);
    expect(next.entry(b.id)).toBeDefined();
    expect(next.give(next.entry(a.id)!, 'new', link).id).toBeGreaterThan(b.id);
  });

  it('leaves out a last line that was never finished, and refuses any other damage', () => {
    const at = file();
    fs.writeFileSync(at, '["n",2,"/a"]\n["n",3,"/b');
    expect(readJournal(at)).toEqual([['n', 2, '/a']]);
    fs.writeFileSync(at, '["n",2,"/a"]\n["n",-3,"/b"]\n');
    expect(() => readJournal(at)).toThrow(expect.objectContaining({ fault: 'corrupt', where: { file: at, at: 13 } }));
    expect(() => Table.resumed(dir(), `${at}.missing`)).toThrow(expect.objectContaining({ fault: 'not-found' }));
  });

  it('writes with the next request what could not be written', () => {
    const at = file();
    const table = Table.fresh(dir(), at);
    const handle = table.open(table.give(table.entry(ROOT_ID)!, 'file', link), 0, '1.0', null);
    table.commit();
    table.close(handle);
    vi.spyOn(fs, 'writeSync').mockImplementationOnce(() => {
      throw Object.assign(new Error('EIO'), { code: 'EIO' });
    });
    expect(() => table.commit()).toThrow('EIO');
    expect(readJournal(at)).toHaveLength(2);
    table.settle();
    expect(readJournal(at).at(-1)).toEqual(['c', handle.fh]);
    expect([...Table.resumed(dir(), at).handles()]).toEqual([]);
  });

  it('does not grow for ever', () => {
    const at = file();
    const table = Table.fresh(dir(), at);
    const root = table.entry(ROOT_ID)!;
    for (let i = 0; i < 20_000; i++) {
      table.forget(table.give(root, `file-${i}`, link).id, 1);
      table.commit();
    }
    const last = table.give(root, 'last', link);
    table.commit();
    expect(readJournal(at).length).toBeLessThan(5000);
    expect(Table.resumed(dir(), at).entry(last.id)?.path).toBe('/last');
  });
});

/**
 * Extended attributes: in the inode, in one leaf, or in leaves below nodes, long values in blocks of their own. "XFS
 * Algorithms & Data Structures", Extended Attributes.
 */
import { runsContent } from '../content.ts';
import type { FileContent, Xattrs } from '../contracts.ts';
import { nameOf } from '../names.ts';
import { XattrList, xfsAcl } from '../xattrs.ts';
import type { Xfs, XfsInode } from './filesystem.ts';
import { FORMAT } from './structs.ts';

const LEAF = { v4: 0xfbee, v5: 0x3bee };
const NODE = { v4: 0xfebe, v5: 0x3ebe };
const FLAG = { local: 0x01, root: 0x02, secure: 0x04, parent: 0x08, incomplete: 0x80 };
const REMOTE_MAGIC = 'XARM';
const REMOTE_HEADER = 56;
const LONGEST_VALUE = 65_536;
const MOST_BLOCKS = 16_384;
const DEEPEST = 8;
/** Access lists, by the names that XFS has for them. */
const ACLS = new Map([
  ['SGI_ACL_FILE', 'system.posix_acl_access'],
  ['SGI_ACL_DEFAULT', 'system.posix_acl_default'],
]);

function put(xfs: Xfs, list: XattrList, flags: number, name: Buffer, value: Buffer): void {
  if ((flags & FLAG.root) !== 0) {
    const acl = ACLS.get(name.toString('latin1'));
    if (acl !== undefined) list.add(acl, xfsAcl(xfs.source, value));
    list.add(`trusted.${nameOf(name)}`, value);
  } else list.add(`${(flags & FLAG.secure) !== 0 ? 'security.' : 'user.'}${nameOf(name)}`, value);
}

/** Pointers to the folders above, and what was not written to its end, are no attributes. */
const isShown = (flags: number): boolean => (flags & (FLAG.parent | FLAG.incomplete)) === 0;

function shortForm(xfs: Xfs, fork: Buffer, list: XattrList): void {
  const count = fork.readUInt8(2);
  for (let i = 0, at = 4; i < count; i++) {
    const nameEnd = at + 3 + fork.readUInt8(at);
    const end = nameEnd + fork.readUInt8(at + 1);
    xfs.source.check(end <= fork.length, 'an extended attribute leads outside its inode');
    const flags = fork.readUInt8(at + 2);
    if (isShown(flags)) put(xfs, list, flags, fork.subarray(at + 3, nameEnd), fork.subarray(nameEnd, end));
    at = end;
  }
}

class Blocks {
  readonly #xfs: Xfs;
  readonly #content: FileContent;

  constructor(xfs: Xfs, content: FileContent) {
    this.#xfs = xfs;
    this.#content = content;
  }

  async block(number: number): Promise<Buffer> {
    const { blockSize, source } = this.#xfs;
    const into = Buffer.allocUnsafe(blockSize);
    source.check((number + 1) * blockSize <= this.#content.size, 'an extended attribute leads outside its blocks');
    const { kind } = this.#content.range(number * blockSize, blockSize);
    source.check(kind === 'disk', 'a block of extended attributes is missing');
    await this.#content.read(into, number * blockSize);
    return into;
  }

  async value(first: number, length: number): Promise<Buffer> {
    const { blockSize, source, v5 } = this.#xfs;
    source.check(length <= LONGEST_VALUE, `an extended attribute of ${length} bytes`);
    const parts: Buffer[] = [];
    for (let left = length, number = first; left > 0; number++) {
      const block = await this.block(number);
      const sound = !v5 || block.toString('latin1', 0, 4) === REMOTE_MAGIC;
      source.check(sound, 'the value of an extended attribute is damaged');
      const part = block.subarray(v5 ? REMOTE_HEADER : 0).subarray(0, left);
      parts.push(part);
      left -= part.length;
      if (blockSize <= REMOTE_HEADER) break;
    }
    return Buffer.concat(parts);
  }
}

async function leafEntries(xfs: Xfs, blocks: Blocks, leaf: Buffer, list: XattrList): Promise<void> {
  const { source, v5 } = xfs;
  const [countAt, header] = v5 ? [56, 80] : [12, 32];
  const count = leaf.readUInt16BE(countAt);
  source.check(header + count * 8 <= leaf.length, 'a leaf of extended attributes is damaged');
  for (let i = 0; i < count; i++) {
    const at = leaf.readUInt16BE(header + i * 8 + 4);
    const flags = leaf.readUInt8(header + i * 8 + 6);
    if (!isShown(flags)) continue;
    if ((flags & FLAG.local) !== 0) {
      const nameEnd = at + 3 + leaf.readUInt8(at + 2);
      const end = nameEnd + leaf.readUInt16BE(at);
      source.check(end <= leaf.length, 'an extended attribute leads outside its leaf');
      put(xfs, list, flags, leaf.subarray(at + 3, nameEnd), leaf.subarray(nameEnd, end));
    } else {
      const nameEnd = at + 9 + leaf.readUInt8(at + 8);
      source.check(nameEnd <= leaf.length, 'an extended attribute leads outside its leaf');
      const value = await blocks.value(leaf.readUInt32BE(at), leaf.readUInt32BE(at + 4));
      put(xfs, list, flags, leaf.subarray(at + 9, nameEnd), value);
    }
  }
}

/** Leaves are linked in a row; the first is found down the first entries of the nodes. */
async function inLeaves(xfs: Xfs, blocks: Blocks, list: XattrList): Promise<void> {
  const { source, v5 } = xfs;
  const magicOf = (block: Buffer): number => block.readUInt16BE(8);
  let number = 0;
  let block = await blocks.block(0);
  for (let depth = 0; magicOf(block) === (v5 ? NODE.v5 : NODE.v4); depth++) {
    source.check(depth < DEEPEST, 'the nodes of extended attributes lead in a circle');
    number = block.readUInt32BE((v5 ? 64 : 16) + 4);
    block = await blocks.block(number);
  }
  const seen = new Set<number>();
  for (;;) {
    const sound = magicOf(block) === (v5 ? LEAF.v5 : LEAF.v4) && !seen.has(number) && seen.size < MOST_BLOCKS;
    source.check(sound, 'the leaves of extended attributes are damaged');
    seen.add(number);
    await leafEntries(xfs, blocks, block, list);
    number = block.readUInt32BE(0);
    if (number === 0) return;
    block = await blocks.block(number);
  }
}

async function read(xfs: Xfs, inode: XfsInode): Promise<Xattrs> {
  const list = new XattrList(xfs.source);
  const runs = await xfs.attributeMap(inode);
  if (runs === null) shortForm(xfs, inode.attributeFork!, list);
  else if (runs.count > 0) {
    const last = runs.run(runs.count - 1);
    await inLeaves(xfs, new Blocks(xfs, runsContent(xfs.source, runs, last.fileAt + last.length)), list);
  }
  return list.found;
}

/** Nothing where there is none, which is known without a read. */
export function xattrsOf(xfs: Xfs, inode: XfsInode): { xattrs?: () => Promise<Xattrs> } {
  const { attributeFork, raw } = inode;
  const empty = attributeFork === null || (raw[83] === FORMAT.local && attributeFork[2] === 0);
  return empty ? {} : { xattrs: () => read(xfs, inode) };
}

import path from 'node:path';
import { ImageError } from '../base/errors.ts';
import { openFileNow } from '../base/files.ts';
import { findSet } from '../chain/find.ts';
import { keyEditors } from '../registry.ts';
import { localWritableStore } from '../stores/local.ts';
import { openRepo } from './open.ts';
import { type KeyArgs, keyOptions, keyring, newSecret } from './secrets.ts';
import { display, table } from './text.ts';
import type { Context, Verb } from './verb.ts';

const ACTIONS = ['list', 'add', 'change', 'remove'] as const;

type KeyVerbArgs = KeyArgs & {
  readonly action: (typeof ACTIONS)[number];
  readonly repo: string;
  readonly set: string;
  readonly newKeyFile?: string;
  readonly label?: string;
  readonly slot?: string;
};

type Editor = (typeof keyEditors)[string];

/** Every file of the set, also those of points that are broken. */
async function filesOf(args: KeyVerbArgs, context: Context): Promise<{ files: readonly string[]; editor: Editor }> {
  await using opened = await openRepo(args.repo, { secrets: async () => [] }, context);
  const set = findSet(opened.repository, args.set);
  const editor = keyEditors[set.adapter];
  if (editor === undefined) {
    throw new ImageError(
      'unsupported',
      `${set.name} is a set of ${set.adapter} images, whose keys are not ours to change`,
    );
  }
  return { files: [...new Set(set.points.map(point => point.file))].sort(), editor };
}

function showList(set: string, listings: Awaited<ReturnType<Editor['list']>>, context: Context): void {
  if (context.json) {
    context.outJson({ set, groups: listings });
    return;
  }
  const columns = ['KEY', 'DERIVATION', 'LABEL', 'FILES'].map(title => ({ title }));
  const rows = listings.flatMap(({ files, slots }) =>
    slots.map(({ id, type, label }) => [id.slice(0, 8), type, label, String(files.length)]),
  );
  context.out(table(columns, rows));
  for (const file of listings.flatMap(one => one.differing)) {
    context.note(`bootmount: ${display(file)} has other keys: a change was stopped; the same command completes it`);
  }
}

/** The new secret, from its file or typed twice. */
async function secretToAdd(args: KeyVerbArgs): Promise<Uint8Array> {
  const source: KeyArgs = args.newKeyFile === undefined ? {} : { keyFile: [args.newKeyFile] };
  try {
    return await newSecret(keyring(source, { ask: false }), source);
  } catch (error) {
    if (!(error instanceof ImageError) || error.where.field !== '--encrypt') throw error;
    throw new ImageError('usage', 'a new key is needed', { field: '--new-key-file' });
  }
}

export const command: Verb = {
  name: 'key',
  positionals: '<action> <repo>',
  summary: 'List, add, change or remove the keys of an encrypted set; no stored data is touched',
  example: 'bootmount key add /srv/backups --set web01 --key-file old.key --new-key-file new.key --label office',
  build: yargs =>
    keyOptions(
      yargs
        .positional('action', { type: 'string', choices: ACTIONS, describe: 'what to do' })
        .positional('repo', { type: 'string', describe: 'folder of backups' })
        .option('set', { type: 'string', nargs: 1, demandOption: true, describe: 'name of the set' })
        .option('new-key-file', { type: 'string', nargs: 1, describe: 'add, change: file with the new key' })
        .option('label', { type: 'string', nargs: 1, describe: 'add, change: what people call the new key' })
        .option('slot', { type: 'string', nargs: 1, describe: 'remove: the key, as the list shows it' }),
    ),
  async run(args: KeyVerbArgs, context) {
    const { files, editor } = await filesOf(args, context);
    const store = localWritableStore(args.repo);
    if (args.action === 'list') return showList(args.set, await editor.list(store, files), context);
    if (args.action === 'remove' && (args.slot === undefined || !/^[0-9a-f]{4,32}$/.test(args.slot))) {
      throw new ImageError('usage', 'which key?', { field: '--slot' }, { hint: 'bootmount key list' });
    }
    if (Buffer.byteLength(args.label ?? '') > 64) {
      throw new ImageError('usage', 'a label has at most 64 bytes', { field: '--label' });
    }
    using keys = keyring(args, { ask: true });
    const present = await keys.secrets();
    if (present.length === 0) {
      throw new ImageError('locked', 'a key that opens the set is needed', {}, { hint: '--key-file FILE' });
    }
    const label = args.label ?? '';
    const edit =
      args.action === 'remove'
        ? ({ kind: 'remove', id: args.slot! } as const)
        : ({ kind: args.action, secret: await secretToAdd(args), label } as const);
    if (edit.kind !== 'remove' && present.some(secret => Buffer.compare(secret, edit.secret) === 0)) {
      throw new ImageError('usage', 'the new key is the present one', { field: '--new-key-file' });
    }
    const openForWriting = async (name: string) => openFileNow(path.join(args.repo, name), 'write', name);
    const written = await editor.edit(store, { files, edit, present, openForWriting });
    const word = { add: 'added', change: 'changed', remove: 'removed' }[args.action];
    if (context.json) context.outJson({ set: args.set, action: args.action, files: written });
    else
      context.out(
        display(`${args.set}: key ${word}, ${written} of ${files.length} files rewritten in their key slots`),
      );
    if (args.action !== 'add') {
      context.note('bootmount: copies of the files that were made before can still be opened with the old key');
    }
  },
};

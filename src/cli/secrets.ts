/**
 * Where keys come from: a file, a descriptor, a command, or the keyboard. Never the command line or the environment,
 * which other users of the machine can read.
 */
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import type { Argv } from 'yargs';
import type { Keyring } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { promptSecret } from './prompt.ts';

const LONGEST = 65_536;
const COMMAND_MS = 120_000;

/** What `keyOptions` declares. */
export type KeyArgs = {
  readonly keyFile?: readonly string[] | undefined;
  readonly keyFd?: number | undefined;
  readonly keyCommand?: string | undefined;
  readonly adapter?: readonly string[] | undefined;
};

/** The flags of every verb that reads backups: where keys come from, and adapters from outside. */
export const keyOptions = (yargs: Argv): Argv =>
  yargs
    .option('key-file', {
      type: 'string',
      array: true,
      nargs: 1,
      describe: 'file that holds a key or pass-phrase (mode 600; may be repeated)',
    })
    .option('key-fd', { type: 'number', nargs: 1, describe: 'read the key from this open descriptor' })
    .option('key-command', { type: 'string', nargs: 1, describe: 'read the key from the output of this command' })
    .option('adapter', { type: 'string', array: true, nargs: 1, describe: 'module with an adapter of your own' });

/** Keys of encrypted volumes inside the disks; apart from those of backups, since other code gets them. */
export type VolumeKeyArgs = { readonly volumeKeyFile?: readonly string[] | undefined };

export const volumeKeyOption = (yargs: Argv): Argv =>
  yargs.option('volume-key-file', {
    type: 'string',
    array: true,
    nargs: 1,
    describe: 'pass-phrase, recovery key or BEK file of an encrypted volume inside a disk (mode 600; may be repeated)',
  });

export const volumeSecrets = ({ volumeKeyFile }: VolumeKeyArgs): readonly Uint8Array[] =>
  (volumeKeyFile ?? []).map(secretFromFile);

/** Secrets that are read once, when first needed, and wiped when the keyring is disposed of. */
export interface SecretRing extends Keyring, Disposable {}

/** `ask`: prompt on a terminal when no key was named and something turns out to be locked. */
export function keyring(args: KeyArgs, options: { readonly ask: boolean }): SecretRing {
  let found: Promise<readonly Uint8Array[]> | null = null;
  let wiped: readonly Uint8Array[] = [];
  const gather = async (): Promise<readonly Uint8Array[]> => {
    const named = await namedSecrets(args);
    const all = named.length === 0 && options.ask && canPrompt() ? [await promptSecret('Key or pass-phrase: ')] : named;
    wiped = all;
    return all;
  };
  return {
    secrets: () => {
      found ??= gather();
      return found;
    },
    [Symbol.dispose]: () => {
      for (const secret of wiped) secret.fill(0);
    },
  };
}

/** The key for a set that is about to be made; typed twice when it is typed. 'usage' when there is none. */
export async function newSecret(keys: Keyring, args: KeyArgs): Promise<Uint8Array> {
  if (args.keyFile === undefined && args.keyFd === undefined && args.keyCommand === undefined) {
    if (!canPrompt()) {
      throw new ImageError('usage', 'encryption needs a key', { field: '--encrypt' }, { hint: '--key-file FILE' });
    }
    const first = await promptSecret('New key or pass-phrase: ');
    const again = await promptSecret('The same again: ');
    if (Buffer.compare(first, again) !== 0) throw new ImageError('usage', 'the two are not the same');
    return first;
  }
  const [secret] = await keys.secrets();
  return secret!;
}

const canPrompt = (): boolean => process.stdin.isTTY === true && process.stderr.isTTY === true;

async function namedSecrets(args: KeyArgs): Promise<readonly Uint8Array[]> {
  const secrets = (args.keyFile ?? []).map(secretFromFile);
  if (args.keyFd !== undefined) secrets.push(secretFromDescriptor(args.keyFd));
  if (args.keyCommand !== undefined) secrets.push(await secretFromCommand(args.keyCommand));
  return secrets;
}

/** One line end after the secret is an editor's; anything else belongs to the secret. */
function trimmed(bytes: Uint8Array, from: string): Uint8Array {
  let end = bytes.length;
  if (bytes[end - 1] === 10) end--;
  if (end < bytes.length && bytes[end - 1] === 13) end--;
  if (end === 0) throw new ImageError('usage', 'the key is empty', { file: from });
  // A copy: the slice of a Buffer would share the memory that is wiped.
  return new Uint8Array(bytes.subarray(0, end));
}

function secretFromFile(file: string): Uint8Array {
  let fd: number;
  try {
    fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW | fs.constants.O_NONBLOCK);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT') throw new ImageError('not-found', 'there is no such key file', { file }, { cause });
    if (code === 'ELOOP') throw new ImageError('usage', 'a key file must not be a symbolic link', { file }, { cause });
    throw new ImageError('io', `the key file cannot be opened (${code})`, { file }, { cause });
  }
  try {
    const { mode, uid, size } = fs.fstatSync(fd);
    if ((mode & fs.constants.S_IFMT) !== fs.constants.S_IFREG) {
      throw new ImageError('usage', 'a key file must be a regular file', { file }, { hint: '--key-fd N' });
    }
    if ((mode & 0o077) !== 0) {
      const octal = (mode & 0o777).toString(8);
      const message = `others can read the key file (mode ${octal}): it must be readable by its owner alone`;
      throw new ImageError('usage', message, { file }, { hint: `chmod 600 ${file}` });
    }
    if (uid !== 0 && uid !== process.geteuid?.()) {
      throw new ImageError('usage', `the key file belongs to another user (uid ${uid})`, { file });
    }
    if (size > LONGEST)
      throw new ImageError('usage', `the key file has ${size} bytes, at most ${LONGEST} make a key`, { file });
    return trimmed(readAll(fd, file), file);
  } finally {
    fs.closeSync(fd);
  }
}

function secretFromDescriptor(fd: number): Uint8Array {
  const from = `--key-fd ${fd}`;
  if (!Number.isSafeInteger(fd) || fd < 0) throw new ImageError('usage', 'not a descriptor', { field: from });
  try {
    return trimmed(readAll(fd, from), from);
  } catch (cause) {
    if (cause instanceof ImageError) throw cause;
    throw new ImageError(
      'usage',
      `cannot be read (${(cause as NodeJS.ErrnoException).code})`,
      { field: from },
      { cause },
    );
  }
}

function readAll(fd: number, from: string): Uint8Array {
  const into = new Uint8Array(LONGEST + 1);
  let length = 0;
  for (;;) {
    const n = fs.readSync(fd, into, length, into.length - length, null);
    if (n === 0) break;
    length += n;
    if (length > LONGEST) throw new ImageError('usage', `more than ${LONGEST} bytes are no key`, { file: from });
  }
  const bytes = into.slice(0, length);
  into.fill(0);
  return bytes;
}

/** Words as a shell splits them, with quotes and backslashes and nothing else: no shell ever sees the command. */
export function splitCommand(text: string): readonly string[] {
  const words: string[] = [];
  let word: string | null = null;
  let quote = '';
  for (let i = 0; i < text.length; i++) {
    const c = text[i]!;
    if (quote !== '') {
      if (c === quote) quote = '';
      else if (c === '\\' && quote === '"' && /["\\]/.test(text[i + 1] ?? '')) word += text[++i]!;
      else word += c;
    } else if (c === '"' || c === "'") {
      quote = c;
      word ??= '';
    } else if (c === '\\' && i + 1 < text.length) word = (word ?? '') + text[++i]!;
    else if (/\s/.test(c)) {
      if (word !== null) words.push(word);
      word = null;
    } else word = (word ?? '') + c;
  }
  if (quote !== '') throw new ImageError('usage', 'a quote is not closed', { field: '--key-command' });
  if (word !== null) words.push(word);
  if (words.length === 0) throw new ImageError('usage', 'the command is empty', { field: '--key-command' });
  return words;
}

async function secretFromCommand(text: string): Promise<Uint8Array> {
  const [command, ...args] = splitCommand(text);
  const from = `--key-command ${command}`;
  const child = spawn(command!, args, { stdio: ['inherit', 'pipe', 'inherit'], timeout: COMMAND_MS });
  const parts: Buffer[] = [];
  let length = 0;
  child.stdout.on('data', (part: Buffer) => {
    length += part.length;
    if (length > LONGEST) child.kill();
    else parts.push(part);
  });
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve, reject) => {
    child.on('error', cause => {
      reject(
        new ImageError('usage', `cannot be run (${(cause as NodeJS.ErrnoException).code})`, { field: from }, { cause }),
      );
    });
    child.on('close', (c, s) => resolve([c, s]));
  });
  if (length > LONGEST) throw new ImageError('usage', `more than ${LONGEST} bytes are no key`, { field: from });
  if (code !== 0)
    throw new ImageError('usage', `the command failed (${signal ?? `exit code ${code}`})`, { field: from });
  const whole = Buffer.concat(parts);
  const secret = trimmed(whole, from);
  for (const part of [...parts, whole]) part.fill(0);
  return secret;
}

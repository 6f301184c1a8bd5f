/** The command line: finds the verb, loads only that, runs it, and turns whatever goes wrong into one line and an exit code. */
import fs from 'node:fs';
import { constants } from 'node:os';
import yargs, { type Argv } from 'yargs';
import { exitCodeOf, ImageError } from '../base/errors.ts';
import { progressBar } from './progress.ts';
import { errorJson, errorLines } from './report.ts';
import { displayJson } from './text.ts';
import type { Args, Context, Verb } from './verb.ts';
import { verbs } from './verbs.ts';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

const version = (): string => {
  const text = fs.readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
};

/** The verb named on the command line; all of them when there is none, for the list in `--help`. */
async function loadVerbs(args: readonly string[]): Promise<readonly Verb[]> {
  const named = args.find(arg => !arg.startsWith('-'));
  if (named === undefined && args.includes('--version')) return [];
  const names = named !== undefined && Object.hasOwn(verbs, named) ? [named] : Object.keys(verbs);
  return Promise.all(names.map(async name => (await verbs[name]!()).command));
}

/** yargs' own words, in ours where they are not clear. */
function usageError(message: string, verb: Verb | undefined): ImageError {
  const synopsis = verb === undefined ? 'bootmount <verb>' : `bootmount ${verb.name} ${verb.positionals}`.trimEnd();
  const what = message.startsWith('Not enough non-option arguments')
    ? `an argument is missing: ${synopsis}`
    : message
        .replace(/\s+/g, ' ')
        .trim()
        .replace(/^Unknown arguments?:/, 'unknown argument:');
  return new ImageError('usage', what, {}, { hint: `${synopsis.replace(/ [<[].*/, '')} --help` });
}

/** Names of the options that are lists; yargs' types leave the call out. */
const listsOf = (parser: Argv): readonly string[] =>
  (parser as unknown as { getOptions(): { array: readonly string[] } }).getOptions().array;

/** A flag that takes one value and was given twice reaches us as a list: nobody should have to guess which one counts. */
function refuseTwice(lists: readonly string[], args: Args, verb: Verb): void {
  for (const [key, value] of Object.entries(args)) {
    const name = key.replace(/[A-Z]/g, c => `-${c.toLowerCase()}`);
    if (key === '_' || !Array.isArray(value) || lists.includes(name)) continue;
    throw usageError(`--${name} is given more than once`, verb);
  }
}

/** Marks words after `--`, which yargs would take for flags, or not count at all. No argument of a program holds a NUL. */
const PLAIN = '\0';

function markPlain(args: readonly string[]): readonly string[] {
  const at = args.indexOf('--');
  return at < 0 ? args : [...args.slice(0, at), ...args.slice(at + 1).map(arg => PLAIN + arg)];
}

const unmark = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(unmark);
  return typeof value === 'string' && value.startsWith(PLAIN) ? value.slice(PLAIN.length) : value;
};

interface Parsed {
  readonly verb: Verb | null;
  readonly args: Args;
  /** What `--help` or `--version` prints. */
  readonly text: string;
}

async function parse(args: readonly string[]): Promise<Parsed> {
  const loaded = await loadVerbs(args);
  const single = loaded.length === 1 ? loaded[0] : undefined;
  let chosen: { verb: Verb; args: Args } | null = null;
  let lists: readonly string[] = [];
  let failure: unknown = null;
  let text = '';
  const parser = yargs()
    .scriptName('bootmount')
    .locale('en')
    .parserConfiguration({ 'dot-notation': false, 'parse-positional-numbers': false })
    .usage('$0 <verb>\n\nMounts directories of image backups and shows every restore point as bootable disk files.')
    .option('json', { type: 'boolean', default: false, describe: 'print one JSON document' })
    .option('verbose', { type: 'boolean', default: false, describe: 'say more, with stack traces for errors' })
    .help()
    .version(version())
    .wrap(Math.min(100, process.stdout.columns ?? 100))
    .strict()
    .demandCommand(1, 'no verb given')
    .exitProcess(false)
    .showHelpOnFail(false)
    .fail((message, error) => {
      failure ??= error ?? usageError(message, single);
    });
  for (const verb of loaded) {
    const usage = `${verb.name} ${verb.positionals}`.trimEnd();
    parser.command(
      usage,
      verb.summary,
      (y: Argv) => {
        const built = verb.build(y.usage(`$0 ${usage}\n\n${verb.summary}`).example(verb.example, ''));
        lists = [...listsOf(built)];
        return built;
      },
      found => {
        chosen = { verb, args: found };
      },
    );
  }
  await parser.parseAsync([...markPlain(args)], {}, (_error, _args, output) => {
    text = output;
  });
  if (failure !== null) throw failure;
  if (chosen === null) return { verb: null, args: {}, text };
  const { verb, args: found } = chosen as { verb: Verb; args: Args };
  refuseTwice(lists, found, verb);
  return { verb, args: Object.fromEntries(Object.entries(found).map(([key, value]) => [key, unmark(value)])), text };
}

/** Standard output whose reader may go away (`| head`): that is no error, and no reason to stop a job. */
function printer(): { print(text: string): void; flushed(): Promise<void> } {
  let failure: NodeJS.ErrnoException | null = null;
  process.stdout.on('error', error => {
    failure ??= error;
  });
  process.stderr.on('error', () => {});
  return {
    print(text) {
      if (failure === null) process.stdout.write(`${text}\n`);
    },
    async flushed() {
      await new Promise<void>(resolve => {
        process.stdout.write('', () => resolve());
      });
      if (failure === null || failure.code === 'EPIPE') return;
      throw new ImageError('io', `the output cannot be written (${failure.code})`, {}, { cause: failure });
    },
  };
}

interface Interrupts extends Disposable {
  readonly signal: AbortSignal;
  exitCode(): number | null;
}

/**
 * The first signal asks the verb to stop and clean up; listeners are gone then, so that a second one ends the program. A verb
 * that fails from then on was stopped (128 + signal); one that ends well has done its work.
 */
function interrupts(): Interrupts {
  const controller = new AbortController();
  let code: number | null = null;
  const onSignal = (name: NodeJS.Signals): void => {
    code = 128 + constants.signals[name];
    controller.abort(new ImageError('io', `stopped by ${name}`));
    stop();
  };
  const stop = (): void => {
    for (const name of SIGNALS) process.off(name, onSignal);
  };
  for (const name of SIGNALS) process.on(name, onSignal);
  return { signal: controller.signal, exitCode: () => code, [Symbol.dispose]: stop };
}

/** Loaded when they are first needed, and once. */
function adaptersOf(files: readonly string[]): Context['adapters'] {
  let loaded: ReturnType<Context['adapters']> | null = null;
  const load = async (): ReturnType<Context['adapters']> => (await import('../server/adapters.ts')).loadAdapters(files);
  return () => {
    loaded ??= load();
    return loaded;
  };
}

/** `mount -t fuse.bootmount REPO MNT` and fstab call the program without a verb: `bootmount REPO MNT -o OPTIONS`. */
function calledByMount(args: readonly string[]): boolean {
  const [repo, mountpoint, flag] = args;
  if (repo === undefined || mountpoint === undefined || flag !== '-o' || args.length !== 4) return false;
  return !Object.hasOwn(verbs, repo) && !repo.startsWith('-') && !mountpoint.startsWith('-');
}

export async function main(given: readonly string[]): Promise<void> {
  const args = calledByMount(given) ? ['mount', ...given] : given;
  const flags = args.includes('--') ? args.slice(0, args.indexOf('--')) : args;
  const json = flags.includes('--json');
  const verbose = flags.includes('--verbose');
  const { print, flushed } = printer();
  const note = (text: string): void => {
    process.stderr.write(`${text}\n`);
  };
  let doing = '';
  const report = (error: unknown): void => {
    if (json) note(errorJson(error));
    else for (const line of errorLines(doing, error, verbose)) note(line);
  };
  process.on('uncaughtException', error => {
    report(error);
    process.exit(exitCodeOf(error));
  });
  using stops = interrupts();
  try {
    const { verb, args: parsed, text } = await parse(args);
    if (verb === null) {
      print(text);
    } else {
      doing = verb.name;
      const context: Context = {
        out: print,
        outJson: value => print(displayJson(value)),
        note,
        exitCode: code => {
          process.exitCode = code;
        },
        adapters: adaptersOf((parsed.adapter as readonly string[] | undefined) ?? []),
        json,
        verbose,
        signal: stops.signal,
        progress: progressBar,
      };
      await verb.run(parsed, context);
    }
    await flushed();
  } catch (error) {
    report(error);
    process.exitCode = stops.exitCode() ?? exitCodeOf(error);
  }
}

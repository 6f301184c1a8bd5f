import yargs from 'yargs';
import { ImageError } from '../base/errors.ts';
import { bashScript, fishScript, type VerbWords, zshScript } from './completion-scripts.ts';
import type { Verb } from './verb.ts';
import { verbs } from './verbs.ts';

const SCRIPTS = { bash: bashScript, zsh: zshScript, fish: fishScript };
type Shell = keyof typeof SCRIPTS;

/** What yargs knows after a verb has declared its flags; its types leave these two out. */
interface Declared {
  getOptions(): {
    readonly key: Readonly<Record<string, unknown>>;
    readonly boolean: readonly string[];
    readonly choices: Readonly<Record<string, readonly (string | number)[] | undefined>>;
  };
  getGroups(): Readonly<Record<string, readonly string[]>>;
}

function wordsOf(verb: Verb): VerbWords {
  const declared = verb.build(yargs()) as unknown as Declared;
  const { key, boolean, choices } = declared.getOptions();
  const positionals = declared.getGroups()['Positionals:'] ?? [];
  const flags = Object.keys(key).filter(name => !positionals.includes(name) && !['help', 'version'].includes(name));
  return {
    name: verb.name,
    summary: verb.summary,
    words: (choices[positionals[0] ?? ''] ?? []).map(String),
    flags: [
      ...flags.map(name => ({
        name: `${name.length === 1 ? '-' : '--'}${name}`,
        takesValue: !boolean.includes(name),
        choices: (choices[name] ?? []).map(String),
      })),
      ...['--json', '--verbose', '--help'].map(name => ({ name, takesValue: false, choices: [] })),
    ],
  };
}

export const command: Verb = {
  name: 'completion',
  positionals: '<shell>',
  summary: 'Print a script that completes verbs, flags and paths in bash, zsh or fish',
  example: 'source <(bootmount completion bash)',
  build: y => y.positional('shell', { type: 'string', choices: Object.keys(SCRIPTS), describe: 'which shell' }),
  async run(args: { readonly shell: Shell }, context) {
    const script = SCRIPTS[args.shell];
    if (script === undefined) throw new ImageError('usage', `no script for ${args.shell}`);
    const all = await Promise.all(Object.values(verbs).map(async load => wordsOf((await load()).command)));
    const text = script(all);
    if (context.json) context.outJson({ shell: args.shell, script: text });
    else context.out(text);
  },
};

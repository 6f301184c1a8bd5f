/** Completion scripts: verbs first, then the verb's flags and their values; everything else is a path. */

export interface FlagWords {
  /** With its dashes. */
  readonly name: string;
  readonly takesValue: boolean;
  readonly choices: readonly string[];
}

export interface VerbWords {
  readonly name: string;
  readonly summary: string;
  /** Values of the first positional, where they are known. */
  readonly words: readonly string[];
  readonly flags: readonly FlagWords[];
}

const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;
const names = (flags: readonly FlagWords[]): string => flags.map(flag => flag.name).join(' ');

export function bashScript(verbs: readonly VerbWords[]): string {
  const perVerb = verbs.map(({ name, words, flags }) => {
    const values = flags
      .filter(flag => flag.choices.length > 0)
      .map(flag => `        ${flag.name}) words=${quoted(flag.choices.join(' '))} ;;`);
    const any = words.length > 0 ? [`        *) [[ $cur == -* ]] || words=${quoted(words.join(' '))} ;;`] : [];
    return [
      `    ${name})`,
      `      flags=${quoted(names(flags))}`,
      ...(values.length + any.length > 0 ? ['      case $prev in', ...values, ...any, '      esac'] : []),
      '      ;;',
    ].join('\n');
  });
  return `# bash completion for bootmount
_bootmount() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} verb= words= flags= i
  for ((i = 1; i < COMP_CWORD; i++)); do
    if [[ \${COMP_WORDS[i]} != -* ]]; then verb=\${COMP_WORDS[i]}; break; fi
  done
  COMPREPLY=()
  if [[ -z $verb ]]; then
    COMPREPLY=($(compgen -W ${quoted(`${verbs.map(verb => verb.name).join(' ')} --help --version`)} -- "$cur"))
    return
  fi
  case $verb in
${perVerb.join('\n')}
  esac
  if [[ -n $words ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
  elif [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "$flags" -- "$cur"))
  fi
}
complete -o default -F _bootmount bootmount`;
}

export function zshScript(verbs: readonly VerbWords[]): string {
  const value = (flag: FlagWords): string => {
    if (!flag.takesValue) return '';
    return flag.choices.length > 0 ? `:value:(${flag.choices.join(' ')})` : ':value:_files';
  };
  const perVerb = verbs.map(({ name, words, flags }) => {
    const specs = flags.map(flag => quoted(`*${flag.name}${value(flag)}`));
    const rest = words.length > 0 ? `*:word:(${words.join(' ')})` : '*:file:_files';
    return `    ${name}) _arguments ${specs.join(' ')} ${quoted(rest)} ;;`;
  });
  const described = verbs.map(({ name, summary }) => `    ${quoted(`${name}:${summary.replaceAll(':', '\\:')}`)}`);
  return `#compdef bootmount
_bootmount() {
  local -a verbs
  verbs=(
${described.join('\n')}
  )
  if (( CURRENT == 2 )); then
    _describe verb verbs
    return
  fi
  local verb=$words[2]
  shift words
  (( CURRENT-- ))
  case $verb in
${perVerb.join('\n')}
    *) _files ;;
  esac
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _bootmount "$@"
else
  compdef _bootmount bootmount
fi`;
}

export function fishScript(verbs: readonly VerbWords[]): string {
  const lines = ['# fish completion for bootmount'];
  for (const { name, summary, words, flags } of verbs) {
    lines.push(`complete -c bootmount -f -n __fish_use_subcommand -a ${name} -d ${quoted(summary)}`);
    const when = quoted(`__fish_seen_subcommand_from ${name}`);
    if (words.length > 0) lines.push(`complete -c bootmount -f -n ${when} -a ${quoted(words.join(' '))}`);
    for (const flag of flags) {
      const dashes = flag.name.startsWith('--') ? `-l ${flag.name.slice(2)}` : `-s ${flag.name.slice(1)}`;
      const value = flag.choices.length > 0 ? ` -x -a ${quoted(flag.choices.join(' '))}` : flag.takesValue ? ' -r' : '';
      lines.push(`complete -c bootmount -n ${when} ${dashes}${value}`);
    }
  }
  return lines.join('\n');
}

/** What a guest writes to its serial console, as lines that do no harm to a terminal. */
import { display } from './text.ts';

/** Escape sequences with which a console moves its cursor and sets colours (ECMA-48, 5.4), and the DEC ones of two bytes. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: the escape character is what it looks for
const SEQUENCES = /\x1b(?:\[[0-?]*[ -/]*[@-~]|[78=>cM])/g;
/** A guest that never ends its line cannot make us collect without limit. */
const LONGEST = 8192;

export interface ConsoleLines {
  push(text: string): void;
  /** Gives out an unfinished last line. */
  end(): void;
}

export function consoleLines(line: (text: string) => void): ConsoleLines {
  let rest = '';
  const give = (text: string): void => {
    const clean = text.replace(SEQUENCES, '').replaceAll('\r', '');
    if (clean !== '') line(display(clean));
  };
  return {
    push(text) {
      const parts = (rest + text).split('\n');
      rest = parts.pop()!;
      for (const part of parts) give(part);
      while (rest.length > LONGEST) {
        give(rest.slice(0, LONGEST));
        rest = rest.slice(LONGEST);
      }
    },
    end() {
      give(rest);
      rest = '';
    },
  };
}

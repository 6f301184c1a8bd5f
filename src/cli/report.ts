/** The one place where an error becomes text: a line for people, a document for programs. */
import { ImageError } from '../base/errors.ts';
import { display, displayJson } from './text.ts';

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'no such file or directory',
  EACCES: 'permission denied',
  EPERM: 'not permitted',
  EISDIR: 'is a directory',
  ENOTDIR: 'is not a directory',
  EROFS: 'the file system is read-only',
  ENOSPC: 'no space left',
  EEXIST: 'exists already',
  ENOTCONN: 'the mount is dead (its server is gone)',
  ELOOP: 'is a symbolic link, or too many of them',
};

interface Told {
  readonly fault: string;
  readonly message: string;
  readonly file: string | undefined;
  readonly at: number | undefined;
  readonly field: string | undefined;
  readonly hint: string | undefined;
}

function tell(error: unknown): Told {
  if (error instanceof ImageError) {
    const { fault, message, where, hint } = error;
    return { fault, message, file: where.file, at: where.at, field: where.field, hint };
  }
  const { code, path } = error as NodeJS.ErrnoException;
  const known = code === undefined ? undefined : REASONS[code];
  const fault =
    code === 'ENOENT' ? 'not-found' : code === 'ENOSPC' ? 'no-space' : code === undefined ? 'internal' : 'io';
  const message = known ?? (error instanceof Error ? error.message : String(error));
  return { fault, message, file: path, at: undefined, field: undefined, hint: undefined };
}

/** `bootmount: <what failed>: <why> (<file or field>)`, the hint, and with `verbose` where it came from. */
export function errorLines(doing: string, error: unknown, verbose: boolean): readonly string[] {
  const { message, file, at, field, hint } = tell(error);
  const place = [
    file === undefined ? [] : [at === undefined || at === 0 ? file : `${file} at ${at}`],
    field === undefined ? [] : [field],
  ].flat();
  const where = place.length === 0 ? '' : ` (${place.map(display).join(', ')})`;
  const lines = [`bootmount: ${doing === '' ? '' : `${doing}: `}${display(message)}${where}`];
  if (hint !== undefined) lines.push(`  try: ${display(hint)}`);
  if (verbose) {
    for (let e: unknown = error; e instanceof Error; e = e.cause) {
      lines.push(...(e.stack ?? e.message).split('\n').map(display));
    }
  }
  return lines;
}

export function errorJson(error: unknown): string {
  const { fault, message, file, at, hint } = tell(error);
  return displayJson({
    error: {
      fault,
      message,
      ...(file === undefined ? {} : { file }),
      ...(at === undefined ? {} : { at }),
      ...(hint === undefined ? {} : { hint }),
    },
  });
}

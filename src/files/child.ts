/**
 * The parser child: the only place where file systems of a backup are parsed. It holds no key of a backup and opens no file; the
 * bytes of a disk come from the program that started it, which also limits its memory and its time, and which goes on when it dies.
 */
import { openVolumes } from '../volumes/volumes.ts';
import { serveParser } from './carry-out.ts';

serveParser(openVolumes);

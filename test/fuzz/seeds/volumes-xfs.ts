import { madeSeed, volumeTarget } from '../volume-target.ts';

const PROTO = `echo tiny > tiny; { echo /dev/null; echo 0 0; echo 'd--755 0 0'; echo 'many d--755 0 0'
   i=0; while [ $i -lt 300 ]; do echo "name$i ---644 0 0 tiny"; i=$((i+1)); done; echo '$'
   echo 'few d--755 0 0'; echo 'text ---644 0 0 tree/a/b/c/text'; echo 'link l--777 0 0 a/b'; echo '$'
   echo 'long l--777 0 0 ${'x'.repeat(400)}'; echo '$'; } > proto`;
/** Extended attributes in the inode, and in a leaf with a value in blocks of its own. */
const ATTRIBUTES = `r=$(xfs_db -r -c 'sb 0' -c 'p rootino' a | cut -d' ' -f3); put() { xfs_db -x -c "inode $1" -c "$2" a; }
   put $((r+4)) 'attr_set -v 20 short'; i=0; while [ $i -lt 9 ]; do put $((r+5)) "attr_set -s -v 90 name$i"; i=$((i+1)); done
   put $((r+5)) 'attr_set -r -v 5000 long'`;
const xfs = (options: string): string =>
  `${PROTO}; truncate -s 30M a; mkfs.xfs -q --unsupported ${options} -p proto a 2>&1`;

export const target = volumeTarget(['mkfs.xfs', 'xfs_db'], async () => [
  madeSeed('version 5', `${xfs('')}; ${ATTRIBUTES}`, 'a'),
  madeSeed('version 4', xfs('-m crc=0 -b size=1024 -n size=4096'), 'a'),
]);

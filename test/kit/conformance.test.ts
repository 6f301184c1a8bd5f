/** The disk formats whose own tests look at other things. */
import { qcow2, qcow2Format } from '../../formats/qcow2/index.ts';
import { raw, rawFormat } from '../../formats/raw/index.ts';
import { diskFormatKit } from './disk-format-kit.ts';
import { sevenZipDigest } from './oracles.ts';

diskFormatKit(rawFormat, { adapter: raw, qemu: 'raw', checkable: false, second: null, limit: null });

diskFormatKit(qcow2Format, {
  adapter: qcow2,
  qemu: 'qcow2',
  checkable: true,
  second: { needs: ['7zz'], digest: file => sevenZipDigest(file, 'qcow') },
  limit: null,
});

/** The kits run over formats whose own tests look at other things. */
import { qcow2, qcow2Format } from '../../formats/qcow2/index.ts';
import { raw, rawFormat } from '../../formats/raw/index.ts';
import { adapterKit } from './adapter-kit.ts';
import { diskFormatKit } from './disk-format-kit.ts';
import { sevenZipDigest } from './oracles.ts';

adapterKit(raw, {
  images: [{ sample: 'raw/sleuthkit/image.dd' }, { sample: 'raw/qemu-samples/grub_mbr.raw.bz2' }],
  skip: [
    { test: 'probe', reason: 'raw has no magic; its answer is "maybe" at best' },
    { test: 'truncation', reason: 'a raw disk that was cut off is a shorter raw disk' },
    { test: 'bit flips', reason: 'every byte is data and none is checked' },
  ],
});

diskFormatKit(rawFormat, { adapter: raw, qemu: 'raw', checkable: false, second: null, limit: null });

diskFormatKit(qcow2Format, {
  adapter: qcow2,
  qemu: 'qcow2',
  checkable: true,
  second: { needs: ['7zz'], digest: file => sevenZipDigest(file, 'qcow') },
  limit: null,
});

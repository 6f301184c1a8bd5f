import { diskFormatKit } from '../../test/kit/disk-format-kit.ts';
import { sevenZipDigest } from '../../test/kit/oracles.ts';
import { vmdk, vmdkFormat } from './index.ts';

diskFormatKit(vmdkFormat, {
  // The kit opens the file that shows the disk; with two files the descriptor is what is opened.
  adapter: { ...vmdk, open: (name, store, keys) => vmdk.open(name.replace('-flat.vmdk', '.vmdk'), store, keys) },
  qemu: 'vmdk',
  checkable: true,
  second: { needs: ['7zz'], digest: file => sevenZipDigest(file, 'vmdk') },
  limit: null,
});

import { madeSeed, volumeTarget } from '../volume-target.ts';

export const target = volumeTarget(['genisoimage'], async () => [
  madeSeed('Rock Ridge', 'genisoimage -quiet -R -J -o a tree', 'a'),
  madeSeed('Joliet', 'rm tree/link tree/long; genisoimage -quiet -J -joliet-long -o a tree', 'a'),
]);

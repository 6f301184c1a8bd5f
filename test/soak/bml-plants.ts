/** Loaded before the program (`node --import`): the code of `.bml` with the fault that BML_PLANT names. */
import module from 'node:module';
import { PLANTS } from './bml-faults.ts';

const plant = PLANTS[process.env.BML_PLANT ?? ''];
if (plant === undefined) throw new Error(`no such fault: ${process.env.BML_PLANT}`);
const missing = new Set(plant.map(({ file }) => file));

module.registerHooks({
  load(url, context, next) {
    const loaded = next(url, context);
    const changes = plant.filter(({ file }) => url.endsWith(`/formats/bml/${file}`));
    if (changes.length === 0) return loaded;
    let text = String(loaded.source);
    for (const { file, from, to } of changes) {
      if (!text.includes(from)) throw new Error(`${file} has no ${JSON.stringify(from)} any more`);
      text = text.replace(from, to);
      missing.delete(file);
    }
    return { ...loaded, source: text };
  },
});
process.on('exit', () => {
  if (missing.size > 0) process.exitCode = 3;
});

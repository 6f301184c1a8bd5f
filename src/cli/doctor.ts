import { checks } from './checks.ts';
import { table } from './text.ts';
import type { Verb } from './verb.ts';

export const command: Verb = {
  name: 'doctor',
  positionals: '',
  summary: 'Say what this machine lacks for mounting and booting, and how to get it',
  example: 'bootmount doctor',
  build: yargs => yargs,
  async run(_args, context) {
    const all = await checks();
    if (context.json) {
      context.outJson(all.map(({ get, ...found }) => (get === null ? found : { ...found, get })));
    } else {
      const word = ({ ok, essential }: (typeof all)[number]): string => (ok ? 'ok' : essential ? 'MISSING' : 'missing');
      const rows = all.map(found => [word(found), found.name, found.detail, found.get ?? '']);
      context.out(table([{ title: '' }, { title: 'WHAT' }, { title: 'FOUND' }, { title: 'HOW TO GET IT' }], rows));
    }
    if (all.some(({ ok, essential }) => essential && !ok)) context.exitCode(1);
  },
};

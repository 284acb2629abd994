// Judges schemas/ with programs that others wrote: the official AsyncAPI parser, and Ajv, JavaScript's JSON Schema
// validator. Usage: node check.mjs FOLDER, which has node_modules and documents.json, as __main__.py makes them.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { isDeepStrictEqual } from 'node:util';

const folder = pathToFileURL(`${process.argv[2]}/`);
const root = new URL('../../', import.meta.url);
const require = createRequire(new URL('package.json', folder));
const { Parser, fromFile } = require('@asyncapi/parser');
const Ajv = require('ajv/dist/2020').default;

const read = (path, from = root) => JSON.parse(readFileSync(new URL(path, from), 'utf8'));
let problems = 0;
const say = (what, problem) => {
  problems += problem ? 1 : 0;
  console.log(problem ? `WRONG  ${what}: ${problem}` : `ok     ${what}`);
};

const parsed = await fromFile(new Parser(), new URL('schemas/asyncapi.json', root).pathname).parse();
const errors = parsed.diagnostics.filter((one) => one.severity === 0);
say('schemas/asyncapi.json by the AsyncAPI parser', errors.map((one) => `${one.path.join('.')} ${one.message}`).join('; '));

const official = require('@asyncapi/specs/schemas/3.0.0-without-$id.json');
const isOfficial = isDeepStrictEqual(read('tests/asyncapi/asyncapi-3.0.0.json'), official);
say('tests/asyncapi/asyncapi-3.0.0.json', isOfficial ? '' : 'differs from the official schema');

for (const [name, documents] of Object.entries(read('documents.json', folder))) {
  const ajv = new Ajv({ strict: true, allowUnionTypes: true, strictTypes: false, strictRequired: false });
  ajv.addVocabulary(['version']);
  const validate = ajv.compile(read(`schemas/${name}.schema.json`));
  const wrong = documents.filter((one) => validate(one.document) !== one.valid);
  const first = wrong.length ? `${wrong.length} judged otherwise, first ${JSON.stringify(wrong[0])}` : '';
  say(`${name}: ${documents.length} documents by Ajv`, first);
}
process.exit(problems ? 1 : 0);

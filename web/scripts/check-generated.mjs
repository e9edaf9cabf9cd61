// Fails when src/api/schema.d.ts is not what `npm run generate` would write from openapi.json.
import { readFile } from 'node:fs/promises';
import openapiTS, { astToString, COMMENT_HEADER } from 'openapi-typescript';

const document = new URL('../openapi.json', import.meta.url);
const committed = await readFile(new URL('../src/api/schema.d.ts', import.meta.url), 'utf8');
const fresh = COMMENT_HEADER + astToString(await openapiTS(document));

if (committed !== fresh) {
  console.error('src/api/schema.d.ts is not what openapi.json says: run `npm run generate`');
  process.exit(1);
}

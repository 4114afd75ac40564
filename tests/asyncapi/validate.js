// AsyncAPI's own parser judges the document on standard input. Prints a JSON list of what it finds: errors and warnings.
import { readFileSync } from 'node:fs';
import { Parser } from '@asyncapi/parser';

const WARNING = 1; // 0 are errors; 2 and 3 are hints, for instance that there is a newer AsyncAPI
const found = await new Parser().validate(readFileSync(0, 'utf8'));
console.log(
  JSON.stringify(
    found
      .filter(({ severity }) => severity <= WARNING)
      .map(({ code, path, message }) => `${path.join('/')}: ${code}: ${message}`),
  ),
);

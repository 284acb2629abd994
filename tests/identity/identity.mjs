// Works out event ids. Each line of standard input: a body in Base64, and a key or nothing.
// Prints the message id in Base64, the event id and the canonical content in Base64 for each. Run: node identity.mjs

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';

const digits = (text) => createHash('sha256').update(text, 'utf8').digest('hex').slice(0, 24);
const base64 = (text) => Buffer.from(text, 'utf8').toString('base64');
// The language compares UTF-16 units, which puts U+10000 before U+FFFF; the order is that of the UTF-8 bytes.
const byCodePoint = ([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b));

// Rewrites JSON that is known to be valid, token by token: JSON.parse would lose how a number was spelled.
function canonical(text) {
  let at = 0;
  const literal = /[^\s,\]}]+/y;
  const string = /"(?:[^"\\]|\\.)*"/y;
  const take = (pattern) => {
    pattern.lastIndex = at;
    const [token] = pattern.exec(text);
    at += token.length;
    return token;
  };
  const next = () => {
    while (/\s/.test(text[at])) at++;
    return text[at];
  };
  const members = (close, read) => {
    const found = [];
    at++;
    while (next() !== close) {
      found.push(read());
      if (next() === ',') at++;
    }
    at++;
    return found;
  };
  const value = () => {
    switch (next()) {
      case '{': {
        const pairs = members('}', () => {
          next();
          const name = JSON.parse(take(string));
          next();
          at++; // the colon
          return [name, value()];
        });
        return `{${pairs.sort(byCodePoint).map(([name, written]) => `${JSON.stringify(name)}:${written}`).join(',')}}`;
      }
      case '[':
        return `[${members(']', value).join(',')}]`;
      case '"':
        return JSON.stringify(JSON.parse(take(string)));
      default:
        return take(literal);
    }
  };
  return value();
}

for (const line of readFileSync(0, 'utf8').split('\n').filter(Boolean)) {
  const [encoded, key = ''] = line.split(/ (.*)/);
  const body = Buffer.from(encoded, 'base64').toString('utf8').replace(/^\ufeff/, '');
  const message = JSON.parse(body);
  const content = canonical(body);
  const id = typeof message.id === 'string' && message.id.trim() ? message.id : digits(content);
  const sender = message.header.sender.id;
  console.log(base64(id), key.trim() ? digits(`${sender}\0\0${key}`) : digits(`${sender}\0${id}\0${content}`), base64(content));
}

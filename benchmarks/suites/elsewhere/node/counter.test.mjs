// A suite as many are: one server for all tests, on the port that its author happened to like.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';

const PORT = 8080;
let count = 0;
const server = createServer((request, response) => {
  if (request.method === 'POST') count += 1;
  response.end(String(count));
});

const ask = async (method) => (await fetch(`http://127.0.0.1:${PORT}/`, { method })).text();

before(
  () =>
    new Promise((resolve, reject) => {
      server.once('error', reject);
      server.listen(PORT, '127.0.0.1', resolve);
    }),
);
after(() => server.close());

test('starts at nothing', async () => {
  assert.equal(await ask('GET'), '0');
});

for (let expected = 1; expected <= 20; expected += 1) {
  test(`counts to ${expected}`, async () => {
    assert.equal(await ask('POST'), String(expected));
    await new Promise((resolve) => setTimeout(resolve, 25));
  });
}

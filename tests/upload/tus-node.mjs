// A tus server on the loopback: @tus/server with its file store, which only says which requests it answered.
//
//   TIDEGATE_TUS_NODE=FOLDER node tus-node.mjs UPLOADS PORT EXPIRE_MS REQUEST_MS
//
// FOLDER has the packages in its node_modules, UPLOADS takes what is uploaded. Uploads expire EXPIRE_MS after they were
// created, and a request that has not arrived whole after REQUEST_MS is answered 408. Prints `listening PORT`, then a
// JSON object a line for each request as its connection is done with it.

import http from 'node:http';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [uploads, port, expire, request] = process.argv.slice(2);
const { resolve } = createRequire(`${process.env.TIDEGATE_TUS_NODE}/package.json`);
const load = (name) => import(pathToFileURL(resolve(name)));
const [{ Server }, { FileStore }] = await Promise.all([load('@tus/server'), load('@tus/file-store')]);

const tus = new Server({
  path: '/files',
  datastore: new FileStore({ directory: uploads, expirationPeriodInMilliseconds: Number(expire) }),
});

const server = http.createServer((incoming, outgoing) => {
  outgoing.on('close', () => {
    const { method, url, headers } = incoming;
    const status = outgoing.writableFinished ? outgoing.statusCode : null;
    console.log(JSON.stringify({ method, url, status, headers }));
  });
  tus.handle(incoming, outgoing);
});
server.requestTimeout = Number(request);
server.listen({ host: '127.0.0.1', port: Number(port) }, () => console.log(`listening ${server.address().port}`));

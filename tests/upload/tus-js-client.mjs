// Uploads a file with tus-js-client, the protocol's own client, and exits with 0 when the server has all of it.
//
//   TIDEGATE_TUS_NODE=FOLDER node tus-js-client.mjs URL FILE [CHUNK_BYTES]
//
// FOLDER has the package in its node_modules, URL is where uploads are created. A PATCH has CHUNK_BYTES, or all that is
// left. Prints the URL of the upload.

import { createReadStream, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename } from 'node:path';

const [endpoint, file, chunk] = process.argv.slice(2);
const { Upload } = createRequire(`${process.env.TIDEGATE_TUS_NODE}/package.json`)('tus-js-client');

const upload = new Upload(createReadStream(file), {
  endpoint,
  uploadSize: statSync(file).size,
  chunkSize: chunk ? Number(chunk) : Infinity,
  retryDelays: [0, 1000, 3000, 5000],
  metadata: { filename: basename(file) },
  onError: (error) => {
    console.error(String(error));
    process.exit(1);
  },
  onSuccess: () => {
    console.log(upload.url);
    process.exit(0);
  },
});
upload.start();

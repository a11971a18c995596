// Passes requests and WebSockets on to the Realtime server, so that clients need one origin.

import { request as httpRequest } from "node:http";
import { connect } from "node:net";
import { readableAnywhere } from "./cors.mjs";

const unreachable = JSON.stringify({ message: "The Realtime server cannot be reached." });

/** Forward an HTTP request with its path as it came. */
export function forwardRequest(target, incoming, outgoing) {
  const forwarded = httpRequest(
    { host: target.hostname, port: target.port, method: incoming.method, path: incoming.url, headers: incoming.headers },
    (response) => {
      outgoing.writeHead(response.statusCode, response.statusMessage, readableAnywhere(pairsOf(response.rawHeaders)));
      response.pipe(outgoing);
    },
  );
  forwarded.on("error", () => {
    if (outgoing.headersSent) outgoing.destroy();
    else outgoing.writeHead(502, readableAnywhere({ "content-type": "application/json" })).end(unreachable);
  });
  outgoing.on("close", () => forwarded.destroy());
  incoming.pipe(forwarded);
}

/** Node's list of names and values in turn, as pairs. */
function pairsOf(list) {
  return list.flatMap((name, index) => (index % 2 ? [] : [[name, list[index + 1]]]));
}

/** Forward an upgrade: the bytes of both sides, from the request line on. */
export function forwardUpgrade(target, incoming, socket, head) {
  const upstream = connect({ host: target.hostname, port: Number(target.port), noDelay: true }, () => {
    const headers = pairsOf(incoming.rawHeaders).map(([name, value]) => `${name}: ${value}\r\n`);
    upstream.write(`${incoming.method} ${incoming.url} HTTP/1.1\r\n${headers.join("")}\r\n`);
    upstream.write(head);
    socket.setNoDelay(true);
    upstream.pipe(socket).pipe(upstream);
  });
  upstream.on("error", () => socket.destroy());
  socket.on("error", () => upstream.destroy());
  socket.on("close", () => upstream.destroy());
  upstream.on("close", () => socket.destroy());
}

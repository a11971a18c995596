// Connections to PostgreSQL that are never used again once they were lost.
//
// The pool of postgres.js 3.4.9 does not survive a crash of the server: a connection that closes while it is reserved goes
// back among the open ones without its socket, what waited for it is never answered, and a write that was due is sent in
// front of the next start-up message. So here every connection is a postgres.js of its own with one socket, which ends with
// it, and whoever waits is told.

import { connect } from "node:net";
import postgres from "postgres";
import { ConnectionError } from "./errors.mjs";

const CONNECT_WITHIN_MS = 5000;

/** Codes of Node's and the driver's errors about a socket; PostgreSQL's consist of five characters. */
const OF_SOCKETS = /^(EPIPE|ECONNRESET|ETIMEDOUT|ERR_STREAM_\w+|ERR_SOCKET_\w+|CONNECTION_\w+)$/;

/** At most `max` connections with the parsed options of a postgres.js. Requests wait in line for them. */
export class Pool {
  #options;
  #max;
  #count = 0;
  #idle = [];
  #waiting = [];

  constructor(options, max) {
    this.#options = options;
    this.#max = max;
  }

  /** A connection for the caller alone, who must `release()` it. Rejects with ConnectionError if there is no database. */
  async reserve() {
    const idle = this.#idle.pop();
    if (idle) return idle;
    if (this.#count < this.#max) return this.#open();
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  /** Run one statement on any connection. */
  async unsafe(text, parameters) {
    const connection = await this.reserve();
    try {
      return await connection.unsafe(text, parameters);
    } finally {
      connection.release();
    }
  }

  async #open() {
    this.#count += 1;
    try {
      const connection = await Connection.open(this.#options);
      connection.release = () => this.#release(connection);
      connection.onlost = () => this.#forget(connection);
      return connection;
    } catch (error) {
      this.#freed();
      throw error;
    }
  }

  #release(connection) {
    if (connection.lost) return this.#freed();
    const next = this.#waiting.shift();
    if (next) next.resolve(connection);
    else this.#idle.push(connection);
  }

  /** A connection was lost: if nobody has it, nobody else will release it. */
  #forget(connection) {
    if (!this.#idle.includes(connection)) return;
    this.#idle = this.#idle.filter((other) => other !== connection);
    this.#freed();
  }

  #freed() {
    this.#count -= 1;
    const next = this.#waiting.shift();
    if (next) this.#open().then(next.resolve, next.reject);
  }
}

/** One connection, from its socket's start to its end. */
class Connection {
  /** Why it can't be used any more, as a ConnectionError; null while it can. */
  lost = null;
  onlost = () => {};
  #socket;
  #sql;
  #pending = new Set();

  constructor(socket) {
    this.#socket = socket;
    socket.on("error", (error) => this.#lose(error)); // the driver listens only once it has taken the socket up
    socket.on("close", () => this.#lose());
  }

  static async open(options) {
    const socket = await dial(options.host[0], options.port[0]);
    const connection = new Connection(socket);
    const driver = postgres({ ...options, max: 1, idle_timeout: null, max_lifetime: null, socket: once(socket) });
    try {
      connection.#sql = await connection.#orLost(driver.reserve());
    } catch (error) {
      socket.destroy();
      throw error instanceof ConnectionError ? error : new ConnectionError("PGRST000", error);
    }
    return connection;
  }

  /** Run a statement; those of one connection are sent together and done in order. */
  unsafe(text, parameters, options) {
    return this.#orLost(this.lost ? null : this.#sql.unsafe(text, parameters, options));
  }

  /** What `doing` gives, or the loss of the connection, which the driver does not always tell. */
  #orLost(doing) {
    return new Promise((resolve, reject) => {
      if (this.lost) return reject(this.lost);
      const fail = (error) => reject(OF_SOCKETS.test(error.code) ? this.#lose(error) : error);
      this.#pending.add(reject);
      doing.then(resolve, fail).finally(() => this.#pending.delete(reject));
    });
  }

  /** From now on it can't be used, and whoever waits is told; answers what they are told. */
  #lose(cause = new Error("The connection was closed.")) {
    if (this.lost) return this.lost;
    this.lost = new ConnectionError("PGRST001", cause);
    this.#socket.destroy();
    for (const reject of this.#pending) reject(this.lost);
    this.onlost();
    return this.lost;
  }
}

/** A connected socket. */
function dial(host, port) {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, noDelay: true, timeout: CONNECT_WITHIN_MS });
    const fail = (error) => {
      socket.destroy();
      reject(new ConnectionError("PGRST000", error));
    };
    socket.once("error", fail);
    socket.once("timeout", () => fail(new Error(`No connection within ${CONNECT_WITHIN_MS} ms.`)));
    socket.once("connect", () => {
      socket.setTimeout(0);
      socket.removeListener("error", fail);
      resolve(socket);
    });
  });
}

/** Gives the socket at the first call; postgres.js calls again to reconnect. */
function once(socket) {
  const sockets = [socket];
  return () => {
    if (sockets.length === 0) throw new Error("The connection was closed.");
    return sockets.pop();
  };
}

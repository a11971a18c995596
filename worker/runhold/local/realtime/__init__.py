"""A Supabase-compatible Realtime server for the local stack.

Written for development and tests: it speaks what the unmodified clients (supabase-py, supabase-js) speak to a
hosted project, on one Postgres. Run it as `python -m runhold.local.realtime`, or in-process:

    async with RealtimeServer(RealtimeConfig(...)) as server:
        print(server.url)

How the parts fit, each module importing only those before it:

    jsontext, errors, config      strict JSON, the error tree, the settings
    frames, tokens, pgoutput      codecs: socket frames, API keys and JWTs, the replication stream
    database, feed                connections, and the change feed on one of them
    filters, bindings             what a client may ask of `postgres_changes`
    catalog, values               what tables look like now, and how their values become JSON
    subscriptions, changes        who wants which change, who may see it, what they are sent
    hub, presence, authorization  who is on a topic, who is tracked there, policies of private channels
    replay, joins                 stored messages for those who join later, and what a join asks for
    channels, sockets, rest       one joined topic, one WebSocket, the HTTP endpoints
    dispatcher, server            feed -> subscribers; everything started, watched and stopped
"""

from runhold.local.realtime.config import RealtimeConfig
from runhold.local.realtime.errors import RealtimeError, RealtimeStartError
from runhold.local.realtime.server import RealtimeServer

__all__ = ["RealtimeConfig", "RealtimeError", "RealtimeServer", "RealtimeStartError"]

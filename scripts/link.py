#!/usr/bin/env python3
"""A distant link: a TCP proxy with a delay each way, a rate per connection and one for all together.

    scripts/link.py --to 127.0.0.1:5000 --port 5050 --record link.json

For the benchmark. A connection is as slow to make as it would be from afar: what a client sends at once arrives
only after a round trip more. When the proxy is ended (SIGTERM) it writes what passed to the record.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import time
from pathlib import Path

PIECE = 32 << 10
"""Bytes passed on at once: at 60 MB/s half a millisecond of the link."""

CREDIT = 0.02
"""Seconds that a sender who was late may catch up: timers are no better than a millisecond."""

SLICE = 0.02
"""Seconds of one entry of the record."""


class Pace:
    """Gives out moments, so that no more than `rate` bytes a second are sent."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._next = 0.0

    def book(self, length: int, now: float) -> float:
        """When so many bytes will have been sent, if they are next."""
        self._next = max(self._next, now - CREDIT) + length / self._rate
        return self._next


class Link:
    """The proxy, and what has passed."""

    def __init__(self, to: tuple[str, int], delay: float, each: float, all_: float) -> None:
        self._to, self._delay, self._each = to, delay, each
        self._pace = Pace(all_)
        self.started = time.time()
        self._zero = time.monotonic()
        self.slices: dict[int, int] = {}
        self.requests: list[tuple[float, str]] = []
        self.connections = self.open = self.most_open = 0

    async def connect(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        """Carries one connection to its end."""
        self.connections += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        made = time.monotonic() + 2 * self._delay
        try:
            # Small buffers: what is under way is what the delay holds, as on a real link.
            server_socket = socket.socket()
            server_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 << 10)
            server_socket.setblocking(False)
            await asyncio.get_running_loop().sock_connect(server_socket, self._to)
            server, asks = await asyncio.open_connection(sock=server_socket, limit=4 * PIECE)
            up = self._carry(client, asks, None, made)
            down = self._carry(server, answers, Pace(self._each), made)
            done, others = await asyncio.wait(
                [asyncio.ensure_future(up), asyncio.ensure_future(down)],
                return_when=asyncio.FIRST_COMPLETED,
            )
            for other in others:
                other.cancel()
            await asyncio.gather(*done, *others, return_exceptions=True)
            asks.transport.abort()
        except OSError:
            pass
        finally:
            answers.close()
            self.open -= 1

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter,
                     pace: Pace | None, made: float) -> None:
        """One way of one connection: `pace` is that of answers, requests weigh nothing."""
        sink.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)
        arriving = asyncio.ensure_future(self._arrive(under_way, sink))
        try:
            while piece := await source.read(PIECE):
                now = time.monotonic()
                sent = max(now, made)
                if pace:
                    sent = max(pace.book(len(piece), now), self._pace.book(len(piece), now))
                    await asyncio.sleep(sent - now)
                    self._passed(len(piece))
                else:
                    self._asked(piece, sent)
                await under_way.put((sent + self._delay, piece))
            await under_way.put((0.0, b""))
            await arriving
        finally:
            arriving.cancel()

    async def _arrive(self, under_way: asyncio.Queue, sink: asyncio.StreamWriter) -> None:
        while True:
            due, piece = await under_way.get()
            if not piece:
                return
            wait = due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            sink.write(piece)
            await sink.drain()

    def _asked(self, piece: bytes, now: float) -> None:
        for line in piece.split(b"\r\n"):
            if line.endswith(b" HTTP/1.1"):
                self.requests.append((now - self._zero, line.decode(errors="replace")))

    def _passed(self, length: int) -> None:
        number = int((time.monotonic() - self._zero) / SLICE)
        self.slices[number] = self.slices.get(number, 0) + length

    def record(self) -> dict:
        """Everything of interest, as JSON has it."""
        return {
            "started": self.started,
            "slice": SLICE,
            "slices": sorted(self.slices.items()),
            "requests": self.requests,
            "connections": self.connections,
            "most_open": self.most_open,
        }


async def serve(args: argparse.Namespace) -> None:
    """Listens until it is told to end."""
    host, port = args.to.rsplit(":", 1)
    link = Link((host, int(port)), args.delay, args.each, args.all)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await asyncio.start_server(link.connect, "127.0.0.1", args.port, limit=4 * PIECE)
    await stop.wait()
    server.close()
    args.record.write_text(json.dumps(link.record()))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", required=True, help="HOST:PORT of the server")
    parser.add_argument("--port", type=int, required=True, help="where to listen")
    parser.add_argument("--delay", type=float, default=0.025, help="seconds each way")
    parser.add_argument("--each", type=float, default=8e6, help="bytes a second of one connection")
    parser.add_argument("--all", type=float, default=60e6, help="bytes a second of all together")
    parser.add_argument("--record", type=Path, required=True, help="where to write what passed")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()

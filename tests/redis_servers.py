"""Redis servers of a test's own: single ones, three that form a Cluster, and a Sentinel; and TLS in front of one.

The packaged redis-server is built without TLS, so TLS ends in a small forwarder before it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

from local.processes import free_ports
from local.redis_server import find_redis_server

LIMIT_S = 20.0
_TLS_HANDSHAKE = b"\x16"


class Server:
    """A redis-server on a port of its own; `settings` are its command line's. `password` is what its settings ask for."""

    def __init__(self, folder: Path, *settings: str, sentinel: Path | None = None, password: str | None = None) -> None:
        self._password = password
        self.port = _port_for_a_cluster() if "--cluster-enabled" in settings else free_ports(1)[0]
        self._folder = folder / str(self.port)
        self._folder.mkdir()
        where = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder))
        self._command = [str(find_redis_server()), *([str(sentinel)] if sentinel else []), *where, *settings]
        self._command += ["--sentinel"] if sentinel else ["--save", ""]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def client(self) -> Any:
        return redis.Redis(port=self.port, password=self._password, socket_timeout=LIMIT_S)

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        with self.client() as client:
            try:
                until(lambda: _answers(client), (self._folder / "log").read_text)
            except BaseException:
                self.kill()
                raise

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _port_for_a_cluster() -> int:
    """Nodes talk to each other on the port 10,000 above."""
    for port in range(21_000 + os.getpid() % 10_000, 45_000):
        with suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10_000))
            return port
    raise AssertionError("no pair of ports is free")


def until(done: Callable[[], Any], what: Callable[[], str] = lambda: "") -> None:
    deadline = time.monotonic() + LIMIT_S
    while not done():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


@contextmanager
def servers(folder: Path, count: int, *settings: str, password: str | None = None) -> Iterator[list[Server]]:
    with ExitStack() as ending:
        made = []
        for _ in range(count):
            made.append(Server(folder, *settings, password=password))
            ending.callback(made[-1].kill)
        yield made


@contextmanager
def cluster(folder: Path, announced: Sequence[int] = ()) -> Iterator[list[Server]]:
    """Three primaries that share the slots. A node that is lost does not take the others' slots down. `announced` are the ports
    that the nodes name to clients, where they are not their own."""
    settings = ("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no", "--cluster-node-timeout", "2000")
    with ExitStack() as ending:
        nodes = []
        for port in announced or (0, 0, 0):  # 0: its own
            nodes += ending.enter_context(servers(folder, 1, *settings, "--cluster-announce-port", str(port)))
        bounds = [0, 5_461, 10_923, 16_384]
        for node, start, end in zip(nodes, bounds, bounds[1:]):
            with node.client() as client:
                client.cluster("ADDSLOTS", *range(start, end))
                for other in nodes:
                    client.cluster("MEET", "127.0.0.1", other.port)
        for node in nodes:
            with node.client() as client:
                until(lambda client=client: len(client.cluster("SLOTS")) == 3)  # type: ignore[misc]
                until(lambda client=client: client.cluster("INFO")["cluster_state"] == "ok")  # type: ignore[misc]
        yield nodes


class TlsFront:
    """Accepts TLS and passes what comes through to a plain port; in a thread of its own. With `and_plain` also who speaks plainly:
    a Sentinel cannot do otherwise here, and must find the master where the clients do."""

    def __init__(self, context: ssl.SSLContext, behind: int, *, and_plain: bool = False) -> None:
        self._context, self.behind, self._and_plain = context, behind, and_plain
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._loop.call_soon_threadsafe(lambda: self._keep(self._serve()))

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(LIMIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT_S)
        self._loop.close()
        self._socket.close()

    def _keep(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.05)  # the transports end on the loop

    async def _serve(self) -> None:
        while True:
            accepted, _ = await self._loop.sock_accept(self._socket)
            self._keep(self._pass_on(accepted))

    async def _pass_on(self, accepted: socket.socket) -> None:
        with accepted, suppress(OSError, ssl.SSLError):
            secure = await self._speaks_tls(accepted)
            if not secure and not self._and_plain:
                return
            reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol, accepted, ssl=self._context if secure else None
            )
            writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
            try:
                there, back = await asyncio.open_connection("127.0.0.1", self.behind)
                try:
                    await asyncio.gather(_pour(reader, back), _pour(there, writer))
                finally:
                    back.close()
            finally:
                transport.abort()  # a closing handshake would outlive the loop

    async def _speaks_tls(self, accepted: socket.socket) -> bool:
        """By the first byte, which is left where it is."""
        readable = self._loop.create_future()
        self._loop.add_reader(accepted, readable.set_result, None)
        try:
            await readable
        finally:
            self._loop.remove_reader(accepted)
        return accepted.recv(1, socket.MSG_PEEK) == _TLS_HANDSHAKE


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, ssl.SSLError):
        while block := await reader.read(1 << 16):
            writer.write(block)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()


def _answers(client: Any) -> bool:
    with suppress(redis.ConnectionError, redis.TimeoutError):
        client.ping()
        return True
    return False


def addresses(nodes: Sequence[Server]) -> str:
    return ",".join(node.address for node in nodes)

"""Registries on the loopback interface, and what a program costs: for the benchmark."""

from __future__ import annotations

import os
import selectors
import shutil
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """What a run took: seconds, processor seconds of all its processes, peak memory in bytes, and
    the most files that were seen open."""

    wall: float
    cpu: float
    peak: int
    files: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        """Two runs, one after the other."""
        return Cost(self.wall + other.wall, self.cpu + other.cpu,
                    max(self.peak, other.peak), max(self.files, other.files))


class Tls(NamedTuple):
    """A server's certificate and key, as PEM files."""

    certificate: Path
    key: Path


def median(costs: list[Cost]) -> Cost:
    """The median of each figure by itself."""
    return Cost(*(statistics.median(figures) for figures in zip(*costs)))


def measure(command: list[str | Path], log: Path) -> Cost:
    """Runs a command to its end, with its output in `log`; raises RuntimeError if it fails.

    Peak memory and open files are the first process's, looked at now and then. (What the
    kernel tells at the end counts this script's memory too, of which every process starts as a copy.)
    """
    watched = Watched()
    with log.open("wb") as output:
        started = time.perf_counter()
        child = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )
        threading.Thread(target=watched.watch, args=(child.pid,), daemon=True).start()
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        tail = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{command[0]} ended with {child.returncode}:\n{tail}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, watched.peak, watched.files)


def empty_files(directory: Path) -> None:
    """Empties every larger file below: the memory that held it holds the next one. A virtual machine may get memory from its host only
    when that is first touched, at several times the price of a write. The files stay, since deleting them slows the file system down."""
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size > 1 << 20:
            os.truncate(path, 0)


class Watched:
    """The most memory, in bytes, and the most open files that a process was seen with."""

    def __init__(self) -> None:
        self.peak = self.files = 0

    def watch(self, pid: int) -> None:
        """Looks until the process ends."""
        try:
            while True:
                time.sleep(0.03)
                status = Path(f"/proc/{pid}/status").read_text()
                peak = status.partition("VmHWM:")[2].split()
                self.peak = max(self.peak, int(peak[0]) << 10 if peak else 0)
                self.files = max(self.files, len(os.listdir(f"/proc/{pid}/fd")))
        except OSError:
            return


class Server:
    """A server process that this script started, ended by its process id."""

    def __init__(self, command: list[str | Path], port: int, log: Path, access: Path | None = None) -> None:
        self.address = f"127.0.0.1:{port}"
        self._access = access
        self._output = log.open("wb")
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + 20
        while not _answers(port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{command[0]} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)

    def cpu_seconds(self) -> float:
        """Processor time used so far, its workers' too (proc(5), fields 14 and 15 of stat)."""
        pid = self._process.pid
        workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ticks = 0
        for process in [pid, *workers]:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def requests(self) -> list[str]:
        """The lines of nginx's access log: connection, TLS session reused, method, path."""
        return self._access.read_text().splitlines() if self._access else []

    def connections(self) -> tuple[int, int]:
        """How many connections were opened, and how many of them resumed a TLS session."""
        first: dict[str, str] = {}
        for line in self.requests():
            connection, reused, *_ = line.split(" ")
            first.setdefault(connection, reused)
        return len(first), sum(1 for reused in first.values() if reused == "r")

    def stop(self) -> None:
        """Ends the process and waits for it."""
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def docker_registry(root: Path, work: Path, proxy_of: str | None = None, *, writable: bool = False) -> Server:
    """Starts docker-registry on a directory: read-only, writable, or as a pull-through proxy of another."""
    port = free_port()
    config = work / f"registry-{port}.yml"
    storage = [f"storage:\n  filesystem:\n    rootdirectory: {root}\n    maxthreads: 100"]
    if proxy_of:
        storage.append(f"proxy:\n  remoteurl: http://{proxy_of}")
    elif not writable:
        storage.append("  maintenance:\n    readonly:\n      enabled: true")
    config.write_text("\n".join([
        "version: 0.1",
        "log:\n  level: error\n  accesslog:\n    disabled: true",
        *storage,
        f"http:\n  addr: 127.0.0.1:{port}\n",
    ]))
    log = work / f"registry-{port}.log"
    return Server(["docker-registry", "serve", config], port, log)


def saver_serve(saver: Path, root: Path, work: Path, tls: Tls | None = None) -> Server:
    """Starts `saver serve` on a registry directory."""
    port = free_port()
    secure = ["--tls-cert", tls.certificate, "--tls-key", tls.key] if tls else []
    command = [saver, "serve", "--dir", root, "--listen", f"127.0.0.1:{port}", *secure]
    return Server(command, port, work / f"serve-{port}.log")


def certificate(work: Path) -> Tls:
    """A self-signed certificate for the loopback address."""
    made = Tls(work / "certificate.pem", work / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", made.key, "-out", made.certificate],
        check=True, capture_output=True)
    return made


def nginx(root: Path, work: Path, manifests: dict[str, tuple[str, str]], tls: Tls | None = None) -> Server:
    """Starts nginx on a registry directory: what a fast source, such as a CDN, is like.

    `manifests` has, for each path that a client may ask for (`/v2/NAME/manifests/REFERENCE`), the
    media type and the digest; nginx can't follow a registry's links by itself.
    """
    port = free_port()
    blobs = root / "docker/registry/v2/blobs/sha256"
    kinds = sorted({kind for kind, _ in manifests.values()})
    targets, locations = [], []
    for path, (kind, digest) in manifests.items():
        targets.append(f'"{path}" /manifest/{kinds.index(kind)}/{digest.removeprefix("sha256:")};')
    for number, kind in enumerate(kinds):
        locations.append(f"""
        location ~ "^/manifest/{number}/((..).*)$" {{
            internal;
            default_type {kind};
            add_header Docker-Content-Digest "sha256:$1";
            alias {blobs}/$2/$1/data;
        }}""")
    config, access = work / f"nginx-{port}.conf", work / f"nginx-{port}.access"
    secure = f"ssl_certificate {tls.certificate}; ssl_certificate_key {tls.key};" if tls else ""
    newline = "\n        "
    config.write_text(f"""
daemon off;
worker_processes 2;
pid {work}/nginx-{port}.pid;
events {{ worker_connections 1024; }}
http {{
    log_format brief "$connection $ssl_session_reused $request_method $request_uri";
    access_log {access} brief;
    ssl_session_cache shared:sessions:4m;
    ssl_session_timeout 10m;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    client_body_temp_path {work}/nginx-body;
    proxy_temp_path {work}/nginx-proxy;
    fastcgi_temp_path {work}/nginx-fastcgi;
    uwsgi_temp_path {work}/nginx-uwsgi;
    scgi_temp_path {work}/nginx-scgi;
    types {{ }}
    map_hash_max_size 262144;
    map_hash_bucket_size 256;
    map $uri $manifest {{
        {newline.join(targets)}
    }}
    server {{
        listen 127.0.0.1:{port}{" ssl" if tls else ""};
        {secure}
        location = /v2/ {{
            default_type application/json;
            add_header Docker-Distribution-Api-Version registry/2.0;
            return 200 "{{}}";
        }}
        location ~ "^/v2/.+/manifests/" {{
            rewrite ^ $manifest last;
        }}
        location ~ "^/v2/.+/blobs/sha256:((..).*)$" {{
            default_type application/octet-stream;
            add_header Docker-Content-Digest "sha256:$1";
            alias {blobs}/$2/$1/data;
        }}{"".join(locations)}
    }}
}}
""")
    log = work / f"nginx-{port}.log"
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    return Server([program or "nginx", "-e", "stderr", "-c", config], port, log, access)


def free_port() -> int:
    """A port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Polls until a condition holds; raises RuntimeError when it does not come to hold."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {seconds} s for {what}")
        time.sleep(0.02)


def head_all(address: str, paths: list[str], accept: str, connections: int) -> float:
    """Sends one HEAD for each path over that many kept connections; returns the seconds it took.

    A load tool as thin as it can be: the next request of a connection goes out when its answer is
    in, and answers are only looked at for their status. (wrk and h2load wait for the body that a
    HEAD's Content-Length seems to announce, and never finish.)
    """
    host, port = address.split(":")
    waiting = iter([
        f"HEAD {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\n\r\n".encode()
        for path in paths
    ])
    started = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for request in [next(waiting) for _ in range(min(connections, len(paths)))]:
            connection = socket.create_connection((host, int(port)))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(request)
            selector.register(connection, selectors.EVENT_READ, bytearray())
        while selector.get_map():
            for key, _ in selector.select(timeout=30) or _raise_stalled():
                answer: bytearray = key.data
                received = key.fileobj.recv(65536)
                answer += received
                if received and not answer.endswith(b"\r\n\r\n"):
                    continue
                if not answer.startswith(b"HTTP/1.1 200 "):
                    raise RuntimeError(f"HEAD answered {bytes(answer[:200])!r}")
                answer.clear()
                request = next(waiting, None)
                if request:
                    key.fileobj.sendall(request)
                else:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
    return time.perf_counter() - started


def _raise_stalled() -> list:
    raise RuntimeError("the server stopped answering")

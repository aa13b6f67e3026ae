"""The pinned jars: fetched once per user, checked every time, never shipped.

`flink-conf/jars.toml` lists them with their SHA-256. A jar is taken from the cache, else from Maven's own local repository
if a verified copy is there, else downloaded from Maven Central or from the mirror named by RIFFLE_MAVEN_URL.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from local.errors import LocalError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAVEN_CENTRAL = "https://repo1.maven.org/maven2"
LIST = Path(__file__).resolve().parents[1] / "flink-conf" / "jars.toml"

_ATTEMPTS = 3
_SILENCE_S = 20  # a connection that says nothing for so long is dead
_LIMIT_S = 300  # one jar, however slowly it trickles in


class Jar(msgspec.Struct, frozen=True):
    name: str
    maven: str  # group:artifact:version
    sha256: str

    @property
    def path(self) -> str:
        """Where every Maven repository keeps it."""
        group, artifact, version = self.maven.split(":")
        return f"{group.replace('.', '/')}/{artifact}/{version}/{self.name}"


def listed(group: str, source: Path = LIST) -> list[Jar]:
    return msgspec.convert(tomllib.loads(source.read_text())[group], list[Jar])


def cache_dir() -> Path:
    """Per user and not per checkout: a second clone starts without the network."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "riffle"


def fetch(jars: Sequence[Jar], *, say: Callable[[str], None]) -> list[Path]:
    """Verified paths of all `jars`, in order, downloading what the cache lacks."""
    folder = cache_dir() / "jars"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        missing = [jar for jar in jars if not _verified(folder / jar.name, jar) and not _from_maven(folder, jar)]
        if missing:
            _download_all(missing, folder, say)
    except OSError as error:
        raise LocalError(
            f"Jars cannot be written to {folder} ({error.strerror}): make room, or set XDG_CACHE_HOME to another folder."
        ) from error
    return [folder / jar.name for jar in jars]


def _verified(path: Path, jar: Jar) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == jar.sha256


def _from_maven(folder: Path, jar: Jar) -> bool:
    """A copy that Maven already has; fetched by it through whatever mirror and proxy its settings name."""
    have = Path.home() / ".m2" / "repository" / jar.path
    if not _verified(have, jar):
        return False
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{jar.name}.", delete=False) as file:
        shutil.copyfile(have, file.name)
    os.replace(file.name, folder / jar.name)
    return True


def _download_all(jars: Sequence[Jar], folder: Path, say: Callable[[str], None]) -> None:
    base = os.environ.get("RIFFLE_MAVEN_URL", MAVEN_CENTRAL).rstrip("/")
    say(f"Fetching {len(jars)} jars from {base} (once).")
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("jars", total=None)
        with ThreadPoolExecutor(max_workers=6, thread_name_prefix="jars") as pool:
            downloads = [
                pool.submit(_download, jar, base, folder, lambda size: progress.advance(task, size)) for jar in jars
            ]
            try:
                for download in as_completed(downloads):
                    download.result()
            except BaseException:
                # Without this the pool would first work off the other forty before it reports the first failure.
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _download(jar: Jar, base: str, folder: Path, advance: Callable[[int], None]) -> None:
    url = f"{base}/{jar.path}"
    for attempt in range(_ATTEMPTS):
        try:
            content = _read(url, advance)
            break
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 or attempt == _ATTEMPTS - 1:
                raise LocalError(
                    f"{url} answered {error.code}: check RIFFLE_MAVEN_URL, or unset it to use Maven Central."
                ) from error
        except (OSError, EOFError) as error:
            if attempt == _ATTEMPTS - 1:
                reason = getattr(error, "reason", None) or error
                raise LocalError(
                    f"{jar.name} cannot be fetched from {base} ({reason}): check the network, "
                    "or set RIFFLE_MAVEN_URL to a Maven repository that this machine reaches."
                ) from error
        time.sleep(0.5 * 2**attempt)
    found = hashlib.sha256(content).hexdigest()
    if found != jar.sha256:
        raise LocalError(
            f"{url} has SHA-256 {found} and not {jar.sha256}, so it was not kept: "
            "the mirror changes files; set RIFFLE_MAVEN_URL to one that does not."
        )
    # Written beside its place and renamed, so that a crash or another stack never sees half a jar.
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{jar.name}.", delete=False) as file:
        try:
            file.write(content)
        except BaseException:
            with suppress(OSError):
                os.unlink(file.name)
            raise
    os.replace(file.name, folder / jar.name)


def _read(url: str, advance: Callable[[int], None]) -> bytes:
    deadline = time.monotonic() + _LIMIT_S
    content = bytearray()
    with urllib.request.urlopen(url, timeout=_SILENCE_S) as response:
        length = response.headers.get("Content-Length")
        while block := response.read(1 << 16):
            content += block
            advance(len(block))
            if time.monotonic() > deadline:
                raise TimeoutError(f"not complete after {_LIMIT_S} s")
    if length is not None and len(content) != int(length):
        raise EOFError(f"{len(content)} of {length} bytes arrived")
    return bytes(content)

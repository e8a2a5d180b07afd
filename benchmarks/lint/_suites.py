"""The suites: sdists of packages that do networking and ship their tests."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

# Fixed, so that figures can be compared and judgements found again.
VERSIONS: Final = {
    "aiocoap": "0.4.17",
    "aiohttp": "3.14.5",
    "aiosmtpd": "1.4.6",
    "anyio": "4.16.0",
    "asyncssh": "2.24.1",
    "bottle": "0.13.4",
    "celery": "5.7.0",
    "cheroot": "11.1.2",
    "cherrypy": "18.10.0",
    "distributed": "2026.8.0",
    "dnspython": "2.9.2",
    "eventlet": "0.41.3",
    "flask": "3.1.3",
    "gevent": "26.9.0",
    "geventhttpclient": "2.6.1",
    "gunicorn": "27.0.1",
    "httpx": "0.28.1",
    "hypercorn": "0.18.0",
    "kazoo": "2.11.0",
    "kombu": "5.7.0",
    "nameko": "2.14.1",
    "opentelemetry-exporter-otlp-proto-grpc": "1.45.1",
    "paho-mqtt": "2.2.0",
    "paramiko": "5.1.0",
    "pika": "1.4.4",
    "prometheus-client": "0.26.0",
    "pyftpdlib": "2.2.0",
    "pymodbus": "3.16.1",
    "pymodbustcp": "0.3.1",
    "pymongo": "4.20.0",
    "pynetdicom": "3.0.4",
    "pyro5": "5.17",
    "python-socketio": "5.18.1",
    "python-socks": "3.2.1",
    "pyzmq": "27.3.0",
    "redis": "8.1.0",
    "requests": "2.34.2",
    "rpyc": "6.0.2",
    "sanic": "25.12.1",
    "scapy": "2.8.0",
    "scrapy": "2.19.0",
    "sshtunnel": "0.5.1",
    "tornado": "6.6.1",
    "trio": "0.35.0",
    "twisted": "26.10.0",
    "urllib3": "2.8.0",
    "uvicorn": "0.54.0",
    "waitress": "3.0.2",
    "websocket-client": "1.9.2",
    "websockets": "17.4",
    "werkzeug": "3.1.9",
}
# gevent ships CPython's own tests, once for each version of CPython.
EXCLUDED: Final = ("greentest",)


def fetch(name: str, cache: Path) -> Path:
    """The folder of one suite's source, downloaded by pip and unpacked where it is not yet.

    Args:
        name: one of `VERSIONS`.
        cache: a folder outside of the repository.

    Raises:
        subprocess.CalledProcessError: pip cannot download it.
    """
    folder = f"{name.replace('-', '_')}-{VERSIONS[name]}"
    source = cache / "src"
    if not (source / folder).is_dir():
        archive = cache / "sdists" / f"{folder}.tar.gz"
        if not archive.is_file():
            _download(name, archive.parent)
        source.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as tar:
            tar.extractall(source, filter="data")
    return source / folder


def _download(name: str, into: Path) -> None:
    # pip asks the package's build for its name and version, even if only the file is wanted.
    wanted = f"{name}=={VERSIONS[name]}"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--no-binary", name, "--dest", str(into), wanted),
        ],
        check=True,
    )

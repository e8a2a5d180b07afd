"""A TLS server with a certificate of its own, by openssl s_server: ``recipes.openssl()``."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Unpack

from portlease.recipes._recipe import Plan, Recipe, RecipeServer, Settings, braces

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Final

RECIPE: Final = Recipe(
    name="openssl",
    summary="a TLS server with a fresh certificate, by openssl s_server",
    programs=("openssl",),
    packages={"apt-get install": "openssl", "dnf install": "openssl", "brew install": "openssl@3"},
    places=("/opt/homebrew/opt/openssl@3/bin", "/usr/local/opt/openssl@3/bin"),
)

_DAYS: Final = "7"


class OpenSSLServer(RecipeServer):
    """A running TLS server."""

    recipe = RECIPE
    cafile: Path
    """Its certificate, in PEM; clients that trust it can verify the server."""
    keyfile: Path
    """Its private key, in PEM."""

    def __init__(self, settings: Settings, *, names: Sequence[str], page: bool) -> None:
        self._names = tuple(names)
        self._page = page
        super().__init__(settings)

    def _plan(self, home: Path) -> Plan:
        self.cafile, self.keyfile = home / "cert.pem", home / "key.pem"
        if not self.cafile.exists():
            self._certify()
        argv = [RECIPE.find(), "s_server", "-accept", self._bind_address()]
        argv += ["-cert", braces(self.cafile), "-key", braces(self.keyfile)]
        return Plan(argv=[*argv, "-www"] if self._page else argv)

    def _certify(self) -> None:
        names = dict.fromkeys(("localhost", "127.0.0.1", "::1", self._bind_host(), *self._names))
        argv = [RECIPE.find(), "req", "-x509", "-nodes", "-days", _DAYS, "-sha256"]
        argv += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        argv += ["-keyout", str(self.keyfile), "-out", str(self.cafile)]
        argv += ["-subj", "/CN=localhost"]
        argv += ["-addext", "subjectAltName=" + ",".join(map(_alternative, names))]
        self._run(argv)

    def context(self) -> ssl.SSLContext:
        """Return a client's context that trusts this server, and verifies its name."""
        import ssl

        return ssl.create_default_context(cafile=self.cafile)

    @property
    def url(self) -> str:
        """``https://127.0.0.1:PORT``."""
        return f"https://{self.netloc}"

    @property
    def env(self) -> dict[str, str]:
        """BASE_URL and SSL_CERT_FILE."""
        return {"BASE_URL": self.url, "SSL_CERT_FILE": str(self.cafile)}


def openssl(
    *, names: Sequence[str] = (), page: bool = True, **settings: Unpack[Settings]
) -> OpenSSLServer:
    """Start openssl s_server on a leased port, with a certificate made for it, valid for 7 days.

    Args:
        names: host names and addresses for the certificate, besides localhost, 127.0.0.1, ::1 and
            the address that it binds.
        page: answer HTTP requests with a page about the connection. Otherwise what clients send
            is in ``server.output``, and they are sent nothing.
        **settings: as for every recipe, see :class:`Settings`; ``args=["-tls1_3"]`` are options of
            s_server. Its home keeps the certificate over ``restart()``.

    Returns:
        The server, once it listens. It serves one client at a time.

    Raises:
        RecipeUnavailableError: openssl is not installed.
        ServerError: as :func:`portlease.serve`, or no certificate can be made for such names.
        PortleaseError: no port was to be had, as in :func:`portlease.lease`.
    """
    return OpenSSLServer(settings, names=names, page=page)


def _alternative(name: str) -> str:
    """Return *name* as a certificate's subjectAltName has it."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return f"DNS:{name}"
    return f"IP:{name}"

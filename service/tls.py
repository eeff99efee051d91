"""The TLS certificate of the server, which is read again once its file has changed."""

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final

from service.log_on_change import LogOnChange
from service.settings import Settings

RELOAD_SECONDS: Final = 60.0
logger = logging.getLogger(__name__)


class CertificateError(Exception):
    """The certificate or its key cannot be used; the message says why."""


def find_tls_files(settings: Settings) -> tuple[Path, Path] | None:
    """The files of the certificate and of its key; None without TLS. Raises CertificateError."""
    if settings.ssl_certfile is None:
        if settings.ssl_keyfile:
            raise CertificateError("a key needs a certificate: set --ssl-certfile too")
        return None
    return settings.ssl_certfile, settings.ssl_keyfile or settings.ssl_certfile


class TlsCertificate:
    """A certificate with its key. New connections use the files that were read last.

    Attributes:
        context: The TLS context of the listeners, for TLS 1.2 and newer.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        """Read the files. Raises CertificateError."""
        self._files = certificate, key
        self._problems = LogOnChange(logger)
        self._stamps = self._read_stamps()
        self.context = self._load()

    def reload_if_changed(self) -> None:
        """Use the files if they have changed. If they cannot be used, keep the old ones."""
        stamps = self._read_stamps()
        if stamps == self._stamps:
            return
        try:
            self._load()  # tries them first: a failure in `context` would leave it without a key
            self.context.load_cert_chain(*self._files)
        except CertificateError as error:
            self._problems.report("certificate", f"TLS certificate not reloaded reason={error}")
            return
        self._stamps = stamps
        self._problems.clear("certificate")
        logger.info("TLS certificate reloaded")

    async def follow(self) -> None:
        """Look for changes until the task is cancelled."""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            self.reload_if_changed()

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        certificate, key = self._files
        try:
            for file in self._files:
                if file.exists() and not file.is_file():  # a named pipe would block the start
                    raise CertificateError(f"cannot use {file}: expected a regular file (PEM)")
            # Without the password, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise CertificateError(
                f"cannot use {certificate} with the key {key}: {error}; expected PEM files, and "
                "a key that is not encrypted"
            ) from None
        return context

    def _read_stamps(self) -> list[tuple[int, int] | None]:
        stamps: list[tuple[int, int] | None] = []
        for file in self._files:
            try:
                status = file.stat()
            except OSError:
                stamps.append(None)
            else:
                stamps.append((status.st_ino, status.st_mtime_ns))
        return stamps

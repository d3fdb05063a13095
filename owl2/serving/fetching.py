"""Images by address, for servers that allow it: only from listed hosts and public addresses, and limited in size.

The checked address is the one that is connected to: a name is resolved once, each of its addresses must be public, and
the connection goes to the checked address with the name in its `Host` header and TLS handshake. Each redirect is
checked likewise.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from urllib.parse import SplitResult, urljoin, urlsplit

from .engine.errors import InvalidRequest
from .settings import FetchSettings

PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK = 64 * 1024

_NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # behind the NAT of a carrier or cloud
        "192.88.99.0/24",  # 6to4 relays
        "::/96",
        "64:ff9b::/96",  # these four hold IPv4 addresses
        "64:ff9b:1::/48",
        "2002::/16",
        "2001::/32",
        "fec0::/10",
    )
]

Resolver = Callable[[str, int], list[str]]
Connector = Callable[[str, int, float], socket.socket]


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def connect(address: str, port: int, seconds: float) -> socket.socket:
    return socket.create_connection((address, port), timeout=seconds)


def is_public(address: str) -> bool:
    """Whether an address is on the internet: not this machine, its network, or the metadata service of a cloud."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    inside = any(ip.version == network.version and ip in network for network in _NOT_PUBLIC)
    return ip.is_global and not ip.is_multicast and not inside


class Fetcher:
    """Fetches images by address.

    Args:
        resolve, connect: Functions that reach names and addresses; tests have their own.
    """

    def __init__(self, settings: FetchSettings, resolve: Resolver = resolve, connect: Connector = connect) -> None:
        self.settings = settings
        self._resolve = resolve
        self._connect = connect
        self._tls = ssl.create_default_context()

    def fetch(self, url: str, param: str) -> bytes:
        """The contents at an address.

        Raises:
            InvalidRequest: The host is not allowed, its address not public, the file too large or too slow, or there
                is none; `param` is to blame.
        """
        deadline = time.monotonic() + self.settings.seconds
        first = self._checked(url, param)
        target = first
        for _ in range(self.settings.redirects + 1):
            contents, location = self._get(target, deadline, param)
            if location is None:
                return contents
            target = self._checked(urljoin(target.geturl(), location), param)
            if (target.scheme, _port(target)) != (first.scheme, _port(first)):
                raise InvalidRequest("a redirect to another scheme or port is not followed", param)
        raise InvalidRequest(f"more than {self.settings.redirects} redirects", param)

    def _checked(self, url: str, param: str) -> SplitResult:
        try:
            parts = urlsplit(url)
            port = _port(parts)
        except (ValueError, KeyError) as error:
            raise InvalidRequest("the address is not valid: it must begin with http:// or https://", param) from error
        if not self.settings.allowed_hosts:
            raise InvalidRequest("this server fetches nothing: send the image as data:...;base64,...", param)
        if parts.username is not None or parts.password is not None:
            raise InvalidRequest("an address with a user or a password is not fetched", param)
        if port != PORTS[parts.scheme] or not self._is_allowed(parts.hostname or ""):
            raise InvalidRequest(f"the host {parts.netloc!r} is not among those that this server fetches from", param)
        if any(ord(character) <= 32 or ord(character) >= 127 for character in url):
            raise InvalidRequest("the address holds characters that must be escaped", param)
        return parts

    def _is_allowed(self, host: str) -> bool:
        for pattern in self.settings.allowed_hosts:
            wanted = pattern.lower()
            if host == wanted or wanted.startswith("*.") and host.endswith(wanted[1:]):
                return True
        return False

    def _get(self, target: SplitResult, deadline: float, param: str) -> tuple[bytes, str | None]:
        """The contents, or the address of a redirect."""
        host, port = target.hostname or "", _port(target)
        try:
            with self._open(host, port, target.scheme, deadline, param) as connected:
                # A server that sends a byte now and then never exceeds the timeout of one read.
                cut = threading.Timer(max(0.0, deadline - time.monotonic()), _shut, [connected])
                cut.daemon = True
                cut.start()
                try:
                    return self._request(connected, host, target, deadline, param)
                finally:
                    cut.cancel()
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() >= deadline:
                raise self._too_slow(param) from error
            raise InvalidRequest(f"the image at {host} cannot be fetched", param) from error

    def _open(self, host: str, port: int, scheme: str, deadline: float, param: str) -> socket.socket:
        addresses = self._resolve(host, port)
        if not addresses or not all(is_public(address) for address in addresses):
            raise InvalidRequest(f"the host {host!r} has no public address", param)
        connected = self._connect(addresses[0], port, max(0.1, deadline - time.monotonic()))
        if scheme == "http":
            return connected
        try:
            return self._tls.wrap_socket(connected, server_hostname=host)
        except BaseException:
            connected.close()
            raise

    def _request(
        self, connected: socket.socket, host: str, target: SplitResult, deadline: float, param: str
    ) -> tuple[bytes, str | None]:
        connection = http.client.HTTPConnection(host, _port(target))
        connection.sock = connected
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        connection.request("GET", path, headers={"Accept": "image/*", "Accept-Encoding": "identity"})
        response = connection.getresponse()
        if response.status in _REDIRECTS:
            return b"", response.getheader("Location") or ""
        if response.status != 200:
            raise InvalidRequest(f"{host} answered with status {response.status}", param)
        contents = bytearray()
        while chunk := response.read1(_CHUNK):
            contents += chunk
            if len(contents) > self.settings.max_bytes:
                raise InvalidRequest(f"the image at {host} is larger than {self.settings.max_bytes} bytes", param)
        if time.monotonic() >= deadline:  # what looks like the end is that the connection was cut
            raise self._too_slow(param)
        return bytes(contents), None

    def _too_slow(self, param: str) -> InvalidRequest:
        return InvalidRequest(f"the image did not arrive within {self.settings.seconds:g} s", param)


def _port(parts: SplitResult) -> int:
    return parts.port or PORTS[parts.scheme]


def _shut(connected: socket.socket) -> None:
    try:
        connected.shutdown(socket.SHUT_RDWR)
    except OSError:  # it has ended meanwhile
        pass

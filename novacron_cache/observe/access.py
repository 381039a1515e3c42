"""Who may ask: the address, the name in the Host header, and the token.

Without a token only this machine is answered, under a name that is this machine's: a page in a browser could otherwise
have its own name lead here and read along. With one, whoever has it.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from ..errors import SettingsError

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK: Final = ("127.0.0.0/8", "::1/128")
ANY: Final = "*"

MIN_TOKEN: Final = 16
"""How long a token has to be."""

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^:\s/@]+)(?::\d{1,5})?")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not answered."""

    status: int
    text: str


class Access:
    """Decides about requests.

    Args:
        token: what the header `Authorization: Bearer <token>` has to hold; None asks for none.
        allow: addresses or networks that are answered; `*` is every one; None is this machine, or everybody with the
            token.
        hosts: names beside this machine's under which it is asked; `*` is every one.

    Raises:
        SettingsError: one of them is malformed, or the token is too short.
    """

    def __init__(
        self, *, token: str | None = None, allow: Iterable[str] | None = None, hosts: Iterable[str] = ()
    ) -> None:
        if token is not None and len(token) < MIN_TOKEN:
            raise SettingsError(
                f"the token has {len(token)} characters; take at least {MIN_TOKEN}, such as those of "
                f"`python -c 'import secrets; print(secrets.token_urlsafe())'`",
                variable="monitor.token",
            )
        if isinstance(allow, str) or isinstance(hosts, str):
            raise SettingsError("allow and hosts are lists, such as ['10.0.0.0/8']", variable="monitor.allow")
        self._token = None if token is None else token.encode()
        chosen = list(allow) if allow is not None else [ANY] if token is not None else list(LOOPBACK)
        self._networks: Sequence[Network] | None = None if ANY in chosen else [_network(text) for text in chosen]
        names = {name.casefold().rstrip(".") for name in hosts}
        self._hosts = None if ANY in names else names

    @property
    def has_token(self) -> bool:
        """Whether a token is asked for."""
        return self._token is not None

    def refuse(self, *, method: str, client: str, host: str, authorization: str) -> Refusal | None:
        """Return why a request is refused, or None where it is answered.

        Args:
            method: the request's method.
            client: the address it came from.
            host: its Host header.
            authorization: its Authorization header.
        """
        if not self._from_here(client):
            return Refusal(403, "this address is not in the allow-list")
        if not self._named(host):
            return Refusal(421, "this name is not served here; the setting monitor.hosts lists those that are")
        if self._token is not None:
            scheme, _, given = authorization.strip().partition(" ")
            good = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token)
            if scheme.lower() != "bearer" or not good:
                return Refusal(401, "send the header `Authorization: Bearer <token>`")
        if method not in ("GET", "HEAD"):
            return Refusal(405, "only GET and HEAD are answered")
        return None

    def _from_here(self, client: str) -> bool:
        if self._networks is None:
            return True
        try:
            address = ipaddress.ip_address(client.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)

    def _named(self, host: str) -> bool:
        if self._hosts is None:
            return True
        found = _HOST.fullmatch(host.strip())
        if found is None:
            return False
        name = found[1].strip("[]").casefold().rstrip(".")
        # No name leads here by itself but that of this machine; an address is no name that others could have lead here.
        return name == "localhost" or name in self._hosts or _is_address(name)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise SettingsError(
            f"{text!r} is no address and no network; expected such as '10.1.2.3' or '10.0.0.0/8'",
            variable="monitor.allow",
        ) from None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether listening there is listening to this machine alone."""
    if host.casefold() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

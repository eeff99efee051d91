"""Refuses requests before their route is known: a wrong host, or too many requests."""

from starlette.types import Scope

from service.errors import ServiceError
from service.http.client_limits import ClientRateLimits
from service.http.host_check import HostCheck, build_host_check
from service.settings import Settings


class Refusals:
    """The checks that all requests pass."""

    def __init__(self, hosts: HostCheck | None, clients: ClientRateLimits | None) -> None:
        self._hosts = hosts
        self._clients = clients

    def find(self, scope: Scope) -> ServiceError | None:
        """Check a request, and count it. Returns why it is refused."""
        try:
            if self._hosts:
                self._hosts.check(scope)
            if self._clients:
                self._clients.check((scope.get("client") or ("",))[0])
        except ServiceError as error:
            return error
        return None

    def may_refuse(self, scope: Scope) -> bool:
        """Whether `find` may refuse or count a request. This method counts nothing.

        The address of a client behind a proxy is known only when `find` runs.
        """
        if self._clients:
            return True
        try:
            if self._hosts:
                self._hosts.check(scope)
        except ServiceError:
            return True
        return False


def build_refusals(settings: Settings, clients: ClientRateLimits | None) -> Refusals | None:
    """Return the checks that the settings ask for; None if there are none.

    Args:
        settings: The settings of the service.
        clients: Also counts the calls of gRPC.
    """
    hosts = build_host_check(settings)
    return Refusals(hosts, clients) if hosts or clients else None

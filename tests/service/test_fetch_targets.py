"""Which URLs and addresses may be fetched."""

import pytest

from service.errors import BadRequestError
from service.fetch_targets import FetchHost, check_url, is_public_address, parse_fetch_hosts

ALLOWED = parse_fetch_hosts("images.example.com, cdn.example.com:8443")


def test_hosts_of_the_setting() -> None:
    assert parse_fetch_hosts("") == parse_fetch_hosts(" ") == frozenset()
    assert {
        FetchHost("images.example.com", 443),
        FetchHost("cdn.example.com", 8443),
    } == ALLOWED


@pytest.mark.parametrize(
    "text",
    ["https://a.example", "a.example/x", "*", "*.a.example", "A.example", "a:b", "a:0", "a:65536",
     "a,", ",", "user@a.example", "[::1]"],
)  # fmt: skip
def test_what_is_no_host_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="host"):
        parse_fetch_hosts(text)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://images.example.com/a.jpg", FetchHost("images.example.com")),
        ("HTTPS://IMAGES.example.com:443/a.jpg?b=c#d", FetchHost("images.example.com")),
        ("https://cdn.example.com:8443", FetchHost("cdn.example.com", 8443)),
    ],
)
def test_url_of_an_allowed_host(url: str, host: FetchHost) -> None:
    assert check_url(url, ALLOWED) == host


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example.com/a.jpg",
        "file:///etc/passwd",
        "//images.example.com/a.jpg",
        "images.example.com/a.jpg",
        "https://cdn.example.com/a.jpg",
        "https://images.example.com:8443/a.jpg",
        "https://images.example.com.evil.example/a.jpg",
        "https://evil.example/images.example.com",
        "https://images.example.com@evil.example/a.jpg",
        "https://user:password@images.example.com/a.jpg",
        "https://@images.example.com/a.jpg",
        "https://evil.example\\@images.example.com/a.jpg",
        "https://images.example.com\\.evil.example/",
        "https://images.example.com./a.jpg",
        "https://images.example.com:99999/a.jpg",
        "https://[images.example.com/a.jpg",
        "https://images.example.com/a b.jpg",
        "https://images.example.com/\r\nHost: evil.example",
        "https://\u2139mages.example.com/a.jpg",
        "https:///a.jpg",
        "https://",
        "",
        f"https://images.example.com/{'a' * 2048}",
    ],
)
def test_other_urls_are_not_allowed(url: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        check_url(url, ALLOWED)
    assert caught.value.code == "url_not_allowed"


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
def test_public_addresses(address: str) -> None:
    assert is_public_address(address)
    assert address.count(":") or is_public_address(f"::ffff:{address}")
    assert address.count(":") or is_public_address(f"64:ff9b::{address}")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254",
        "100.64.0.1", "0.0.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1",
        "198.18.0.1", "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1",
        "fe80::1", "fe80::1%1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1",
        "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::10.0.0.1",
        "2002:7f00:1::", "2002:a9fe:a9fe::", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    ],
)  # fmt: skip
def test_private_addresses(address: str) -> None:
    """Also inside IPv6 addresses that are translated to IPv4."""
    assert not is_public_address(address)

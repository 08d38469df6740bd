"""A certificate authority of our own and a certificate of it, as a node's HTTPS listener has one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from functools import cache
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["certificates"]

_ADDRESS = "127.0.0.1"


@cache
def certificates(names: tuple[str, ...]) -> tuple[bytes, bytes]:
    """The authority's certificate, and a chain of private key and certificate for these host names; PEM.

    Made once in a process: a key takes its time. The extensions are those that strict verification asks for.
    """
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _signed("stand-in authority", authority_key, "stand-in authority", authority_key)
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = _signed(names[0], key, "stand-in authority", authority_key, hosts=names)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return authority, private + leaf


def _signed(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    hosts: Iterable[str] = (),
) -> bytes:
    now = dt.datetime.now(dt.UTC)
    is_authority = not hosts
    builder = (
        x509.CertificateBuilder()
        .subject_name(_called(name))
        .issuer_name(_called(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(_usage(is_authority=is_authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if hosts:
        alternatives: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
        alternatives.append(x509.IPAddress(ip_address(_ADDRESS)))
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )

"""An authority for a test, and certificates of it: for the coordinator on this machine, and for sites."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

COORDINATOR = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])


@dataclass
class Authority:
    """Signs certificates into a folder; its own lies there as `authority.crt`."""

    folder: Path
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority {self.folder.name}")])
        built = self._builder(self.name, self.key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self._write("authority.crt", built)

    @property
    def certificate(self) -> Path:
        return self.folder / "authority.crt"

    def coordinator(self) -> dict[str, Path]:
        return self._issue("coordinator", ["coordinator"], ExtendedKeyUsageOID.SERVER_AUTH, names=True)

    def site(self, *common_names: str) -> dict[str, Path]:
        return self._issue("-".join(common_names), common_names, ExtendedKeyUsageOID.CLIENT_AUTH)

    def _issue(self, file, common_names, usage, *, names=False) -> dict[str, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each) for each in common_names])
        built = (
            self._builder(subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        if names:
            built = built.add_extension(COORDINATOR, critical=False)
        private = self.folder / f"{file}.key"
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return {
            "authority": self.certificate,
            "certificate": self._write(f"{file}.crt", built),
            "key": private,
        }

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )

    def _write(self, file: str, built: x509.CertificateBuilder) -> Path:
        path = self.folder / file
        path.write_bytes(built.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM))
        return path

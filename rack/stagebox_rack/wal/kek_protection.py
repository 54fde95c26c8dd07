"""How the journal's keys lie at rest: plain in a private file, under a systemd credential, or sealed by the TPM.

Rules: a credential or the TPM gives a secret, and what encrypts is always AES-256-GCM under a key derived from it.
Secrets pass to other programs through stdin and stdout alone, never in argv, errors or logs. What cannot be opened is
an error with a remedy; nothing is ever made anew in its place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stagebox.errors import KeyFileError
from stagebox_rack.limits import LIMITS

CREDENTIAL: Final = "stagebox-wal-key"
"""Name of the systemd credential."""

SECRET_BYTES: Final = 32
NONCE_BYTES: Final = 12
_SEALED_NAME: Final = "stagebox-wal-kek"
_DERIVE_PURPOSE: Final = "stagebox.wal.kek-secret.v2"

Random = Callable[[int], bytes]
Run = Callable[[Sequence[str], bytes], bytes]
"""Runs a program with these bytes as its stdin and returns its stdout."""


class Protection(StrEnum):
    """What keeps the keys from whoever copies the key file. ``AUTO`` is only asked for, never stored."""

    AUTO = "auto"
    FILE = "file"
    CREDENTIAL = "credential"
    TPM2 = "tpm2"


def encrypt(secret: bytes, plain: bytes, bound: bytes, nonce: bytes) -> bytes:
    """Return ``nonce ‖ AES-256-GCM(plain)`` under a key derived from ``secret``, bound to ``bound``."""
    return nonce + AESGCM(_derived(secret)).encrypt(nonce, plain, bound)


def decrypt(secret: bytes, data: bytes, bound: bytes) -> bytes:
    """Undo :func:`encrypt`.

    Raises:
        InvalidTag: another secret, or altered.
    """
    if len(data) < NONCE_BYTES:
        raise InvalidTag
    return AESGCM(_derived(secret)).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], bound)


def _derived(secret: bytes) -> bytes:
    return blake3(secret, derive_key_context=_DERIVE_PURPOSE).digest()


def run_program(argv: Sequence[str], data: bytes) -> bytes:
    """Run a program that must end in time, without a shell.

    Raises:
        KeyFileError: it cannot be started, fails or takes too long.
    """
    remedy = (
        "check that this user may open /dev/tpmrm0 and that systemd-creds has TPM support (the tpm2-tss libraries); "
        "keys sealed by this TPM open on this machine only"
    )
    try:
        done = subprocess.run(
            argv, input=data, capture_output=True, timeout=LIMITS.wal_tpm_timeout, check=False
        )
    except OSError as error:
        raise KeyFileError(f"cannot run {argv[0]}: {error.strerror}", remedy=remedy) from None
    except subprocess.TimeoutExpired:
        # The exception it came from holds what was written so far, which may be the secret.
        raise KeyFileError(
            f"{argv[0]} did not end within {LIMITS.wal_tpm_timeout:g} s", remedy=remedy
        ) from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]
        raise KeyFileError(f"{argv[0]} {argv[1]} failed ({done.returncode}): {said}", remedy=remedy)
    return done.stdout


@dataclass(frozen=True)
class Tpm:
    """This machine's TPM, through ``systemd-creds``."""

    device: Path = Path("/dev/tpmrm0")
    program: str = "systemd-creds"
    run: Run = run_program

    def present(self) -> bool:
        """Whether there is a TPM that this user may use, and the program for it."""
        return os.access(self.device, os.R_OK | os.W_OK) and shutil.which(self.program) is not None

    def seal(self, secret: bytes) -> bytes:
        """Return a blob that only this TPM opens.

        Raises:
            KeyFileError: the TPM or the program failed.
        """
        # No PCRs: a firmware update must not lock the rack out of its own records.
        options = ("--with-key=tpm2", "--tpm2-pcrs=", f"--name={_SEALED_NAME}")
        blob = self.run((self.program, "encrypt", *options, "-", "-"), secret)
        if not 0 < len(blob) <= LIMITS.wal_tpm_blob_bytes or self.unseal(blob) != secret:
            raise KeyFileError(
                "the TPM does not give back what it sealed", remedy="choose another protection"
            )
        return blob

    def unseal(self, blob: bytes) -> bytes:
        """Return the secret.

        Raises:
            KeyFileError: another TPM's blob, or the TPM or the program failed.
        """
        return self.run((self.program, "decrypt", f"--name={_SEALED_NAME}", "-", "-"), blob)


@dataclass(frozen=True)
class Keeper:
    """Where this process finds the secrets: the directory of its systemd credentials, and the TPM."""

    credentials: Path | None = None
    tpm: Tpm = field(default_factory=Tpm)

    @classmethod
    def of_environment(cls) -> Self:
        """Return what systemd gave this process."""
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        return cls(Path(directory) if directory else None)

    def choose(self, asked: Protection) -> Protection:
        """Return what to use: ``asked``, or for ``AUTO`` the best there is."""
        if asked is not Protection.AUTO:
            return asked
        if self.credentials is not None and (self.credentials / CREDENTIAL).exists():
            return Protection.CREDENTIAL
        return Protection.TPM2 if self.tpm.present() else Protection.FILE

    def new_secret(self, protection: Protection, random: Random) -> tuple[bytes, bytes]:
        """Return (secret, sealed blob) to encrypt a key file with; the blob is empty for a credential.

        Raises:
            KeyFileError: there is no such credential or TPM, or it failed.
        """
        if protection is Protection.CREDENTIAL:
            return self._credential(), b""
        if not self.tpm.present():
            raise KeyFileError(
                f"no TPM can be used here: {self.tpm.device} or {self.tpm.program} is missing or not for this user",
                remedy="give this user access to it, or choose another protection",
            )
        secret = random(SECRET_BYTES)
        return secret, self.tpm.seal(secret)

    def secret(self, protection: Protection, sealed: bytes) -> bytes:
        """Return the secret a key file was encrypted with.

        Raises:
            KeyFileError: the credential is missing or too short, or the TPM does not open ``sealed``.
        """
        return self._credential() if protection is Protection.CREDENTIAL else self.tpm.unseal(sealed)

    def _credential(self) -> bytes:
        remedy = (
            f"start with the credential the journal was made with: LoadCredential={CREDENTIAL} in the unit, or "
            f"systemd-run -p LoadCredential={CREDENTIAL} for a command"
        )
        if self.credentials is None:
            raise KeyFileError(
                f"the credential {CREDENTIAL} is needed and CREDENTIALS_DIRECTORY is not set", remedy=remedy
            )
        path = self.credentials / CREDENTIAL
        try:
            with path.open("rb") as stream:
                secret = stream.read(LIMITS.wal_credential_bytes + 1)
        except OSError as error:
            raise KeyFileError(
                f"cannot read the credential {path}: {error.strerror}", remedy=remedy
            ) from error
        if not SECRET_BYTES <= len(secret) <= LIMITS.wal_credential_bytes:
            raise KeyFileError(
                f"the credential {path} has {len(secret)} bytes, not {SECRET_BYTES} to {LIMITS.wal_credential_bytes}",
                remedy=f"make it of {SECRET_BYTES} random bytes; {remedy}",
            )
        return secret

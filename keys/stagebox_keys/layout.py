"""Where each file of a cluster directory lives, relative to the directory that holds it.

``offline/`` leaves the machine after ``gen-cluster``; ``mixer/`` is all a mixer needs.
"""

from __future__ import annotations

OFFLINE = "offline"
MIXER = "mixer"

# In offline/
ROOT_KEY = "root-ca.key"
ROOT_CERT = "root-ca.pem"
OPERATOR_KEY = "nats-operator.key"

# In mixer/
CLUSTER_TOML = "cluster.toml"
CA_PEM = "ca.pem"
ISSUING_KEY = "issuing-ca.key"
ISSUING_CERT = "issuing-ca.pem"
CHAIN_PEM = "chain.pem"
AUTHORITY_KEY = "authority.key"
CLUSTER_PUB = "cluster.pub"
STORAGE_KEY = "storage.key"
NATS = "nats"

# In mixer/nats/
OPERATOR_JWT = "operator.jwt"
CALLOUT_KEY = "callout.key"

# In a client's directory
CLIENT_KEY = "client.key"
CLIENT_CERT = "client.crt"
CLIENT_PROFILE = "profile.toml"

# In a module vendor's directory
VENDOR_KEY = "vendor.key"
VENDOR_TOML = "vendor.toml"


def account_jwt(account: str) -> str:
    """File name in ``mixer/nats/`` of the token of ``sys``, ``auth``, ``stagebox`` or ``store``."""
    return f"{account}.jwt"


def account_signing_key(account: str) -> str:
    """File name of an account's signing key in ``mixer/nats/``."""
    return f"{account}-signing.key"

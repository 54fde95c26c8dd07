"""Where a cluster's statement must agree with the vendor's, checked by whoever countersigns and by whoever verifies."""

from __future__ import annotations

from stagebox.errors import ModuleError
from stagebox.modules.limits import LIMITS
from stagebox.modules.statement import ClusterStatement, Statement


def check_agreement(vendor: Statement, cluster: ClusterStatement) -> None:
    """Compare the two statements of one file, field by field.

    Raises:
        ModuleError: another name, version, ABI or request, a grant nobody asked for, a life beyond the vendor's, or one
            key for both.
    """
    own = cluster.statement
    if own.key_id == vendor.key_id:
        raise ModuleError("wrong_purpose_key", "vendor and cluster have signed with the same key")
    if own.name != vendor.name:
        raise ModuleError(
            "wrong_name", f"the vendor signed {vendor.name!r}, the cluster countersigned {own.name!r}"
        )
    if own.version != vendor.version:
        raise ModuleError(
            "wrong_module_version",
            f"the vendor signed version {vendor.version}, the cluster countersigned {own.version}",
        )
    if own.abi != vendor.abi:
        raise ModuleError("wrong_abi", f"the vendor signed ABI {vendor.abi}, the cluster ABI {own.abi}")
    if own.capabilities != vendor.capabilities:
        raise ModuleError(
            "wrong_capabilities",
            "the cluster's statement repeats other capabilities than the vendor asks for",
        )
    beyond = sorted(set(cluster.granted) - set(vendor.capabilities))
    if beyond:
        raise ModuleError(
            "capability_not_allowed",
            f"the cluster granted {beyond[0].value!r}, which the vendor did not ask for",
        )
    if own.expires > vendor.expires:
        raise ModuleError("expiry_too_late", "the countersignature outlives the vendor's signature")
    if own.issued + LIMITS.clock_skew_ns < vendor.issued:
        raise ModuleError("not_yet_valid", "the module was countersigned before the vendor signed it")

"""The example modules of `deploy/modules`, built from source, beside numpy and scipy doing the same."""

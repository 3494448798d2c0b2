"""A small Qdrant-compatible node on Qdrant's own engine, for the demo and the tests.

It answers the REST calls this product needs as a Qdrant 1.18 does, alone (`SandboxNode`) or as one of several in a
cluster (`SandboxCluster`), and its snapshots are genuine: the engine makes and opens them. It knows nothing of Django
and of the rest of this project.
"""

from .cluster import SandboxCluster
from .faults import FaultRule, Faults
from .node import SandboxNode

__all__ = ["FaultRule", "Faults", "SandboxCluster", "SandboxNode"]

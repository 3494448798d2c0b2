"""The parts of scripts/faults: servers and workers to break, proxies that break them, and the checker that judges."""

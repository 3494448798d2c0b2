"""The parts of scripts/bench: a bed of real servers and data, the contestants, and what came out."""

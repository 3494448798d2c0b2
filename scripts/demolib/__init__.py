"""The parts of scripts/demo: sample data, the processes it starts, the two REST clients, the comparison, the story."""

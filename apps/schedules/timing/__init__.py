"""When a schedule runs: pure functions on frozen dataclasses. No Django, no clock, all instants in UTC."""

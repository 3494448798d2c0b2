"""Retention: which backups stay and why, as a pure function. No I/O, no clock, no Django."""

"""Retention at work: gathers the facts, asks apps.backups.retention what should go, and lets it go, in steps."""

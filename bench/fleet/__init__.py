"""What a fleet costs its master: one real master and real minions, each with an engine of its own, on one machine."""

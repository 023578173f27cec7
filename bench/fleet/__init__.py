"""Load on the master: one real master and many real minions on one machine, each with its own engine."""

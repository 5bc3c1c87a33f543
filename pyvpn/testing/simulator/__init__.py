"""A network in memory, with faults on demand: one clock, one seed, one outcome."""

"""Taking a changed configuration while the daemon runs: what differs, what follows from it, doing it."""

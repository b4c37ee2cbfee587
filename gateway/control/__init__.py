"""One gateway in several processes: the control process, the nursery that forks, and the workers that serve."""

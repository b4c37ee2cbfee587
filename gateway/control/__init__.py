"""What serves on this node, seen from the control side: a data plane in this process, or workers under a supervisor."""

"""Where responses are stored (`gateway.core.ports.ResponseCache`): the one door of aiocache (law 5).

In this process's memory or in Redis; nothing of either is imported before a configuration stores responses.
"""

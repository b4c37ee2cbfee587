"""The gateway as a client of other issuers: what it asks them for, and what it remembers of their answers."""

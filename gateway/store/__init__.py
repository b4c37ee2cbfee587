"""The identity store: one repository a noun over one database, and the feed of its changes (`gateway.store.store`)."""

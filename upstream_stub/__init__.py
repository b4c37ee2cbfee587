"""A small believable LMS to stand behind the gateway in demos and tests, with misbehaviours to switch on.

It knows nothing of the gateway.  `upstream_stub.app.build_app` makes the aiohttp application,
`upstream_stub.raw.RawServer` is a server that plays scripted bytes, and `python -m upstream_stub`
runs the LMS on a port.
"""

"""A configuration on its way to another process of the same node: read, filled in and judged once, sent as it stands.

What only the control process needs stays there: the store's URL, the secret key, the consumers' keys, the tests.
Pickled by and for the same interpreter, over a socket that nobody else holds.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr

from gateway.config.loader import Loaded
from gateway.config.model import STANDING, Config


def pack(loaded: Loaded, standing: Config | None = None) -> bytes:
    """What a worker needs of a configuration.

    What only a restart changes (`model.STANDING`) is that of `standing`, with which the gateway was started (None: of
    the configuration itself): a worker that begins after a reload is to count and to listen as those beside it do.
    """
    config = loaded.config
    begun = config if standing is None else standing
    wanted = set(_stand_ins(config))
    consumers = tuple(
        consumer.model_copy(update={"keys": ()}) for consumer in config.consumers if consumer.username in wanted
    )
    lean = config.model_copy(
        update={name: getattr(begun, name) for name in STANDING}
        | {
            "consumers": consumers,
            "clients": (),
            "tests": (),
            "secret_key": SecretStr(""),
            "store": Config.model_fields["store"].default,
        }
    )
    return pickle.dumps((lean, loaded.hash, [str(file) for file in loaded.files]), protocol=5)


def unpack(packed: bytes) -> Loaded:
    """The configuration as it was when it was packed, but for what stayed behind."""
    config, config_hash, files = pickle.loads(packed)  # noqa: S301 - see the module: our own process packed it
    return Loaded(config, config_hash, tuple(map(Path, files)))


def _stand_ins(config: Config) -> Iterator[str]:
    """The consumers that some policy names."""
    for policies in (
        config.policies,
        *(service.policies for service in config.services),
        *(route.policies for service in config.services for route in service.routes),
    ):
        for settings in policies.values():
            name = getattr(settings, "anonymous", None)
            if isinstance(name, str):
                yield name

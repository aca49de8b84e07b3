"""Update rules, and the optimizers around which they act; torch only, a library for any training loop.

`RefLoRA(model, lr=...)` and `LoRARITE(model, lr=...)` are ordinary torch optimizers. `roles_of(model)` says what it
found in the model.
"""

from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim.optimizers import LoRARITE, RefLoRA, RefLoRASGD
from reflora_cli.optim.roles import Roles, roles_of

__all__ = ["FactorPair", "LoRARITE", "RefLoRA", "RefLoRASGD", "Roles", "roles_of"]

"""Update rules, and the optimizers around which they act; torch only, a library for any training loop.

`RefLoRA(model, lr=...)` is an ordinary torch optimizer. `roles_of(model)` says what it found in the model.
"""

from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim.optimizers import RefLoRA, RefLoRASGD
from reflora_cli.optim.roles import Roles, roles_of

__all__ = ["FactorPair", "RefLoRA", "RefLoRASGD", "Roles", "roles_of"]

"""Commands in one process in which every attempt to reach an address is noted and refused.

    python -m tests.robustness.connections '[["eval", "runs/first"], ...]'

Prints the commands' exit statuses and what was tried, as JSON.
"""

from __future__ import annotations

import json
import sys

from typer.testing import CliRunner

EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg")


def main() -> None:
    from reflora_cli.cli import app

    opened: list[str] = []

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if event in EVENTS:
            opened.append(f"{event} {arguments[1:]}")
            raise PermissionError(opened[-1])

    sys.addaudithook(refuse)
    results = [CliRunner().invoke(app, command) for command in json.loads(sys.argv[1])]
    print("\n".join(result.stderr for result in results if result.exit_code), file=sys.stderr)
    print(json.dumps({"statuses": [result.exit_code for result in results], "opened": opened}))


if __name__ == "__main__":
    main()

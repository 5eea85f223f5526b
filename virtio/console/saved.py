"""What the saved state of a console may be: its ports, and what was said of them.

Numbers of ports choose queues and ports of ours, and the rest goes to the driver as it stands.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from virtio.console.port import NAME_BYTES_MAX, ConsolePort
from virtio.errors import ConfigurationError
from virtio.saved import U16, U32, Length, Within, checked
from virtio.virtqueue.chain import MAX_CHAIN_BYTES

MESSAGES_PER_PORT: Final = 7


def check_console_state(
    state: Mapping[str, Any], ports: Mapping[int, ConsolePort], max_ports: int
) -> None:
    """Raise :class:`ConfigurationError` for a state that a console like ours cannot have been in.

    One that has another form raises :class:`KeyError`, :class:`TypeError` or :class:`ValueError`.
    """
    saved, dialogue = state["ports"], state["dialogue"]
    if len(saved) != len(ports):
        raise ConfigurationError(
            f"console with {len(ports)} ports: the saved state has {len(saved)}"
        )
    if state["config"]["max_nr_ports"] != max_ports:
        raise ConfigurationError(f"saved console: max_nr_ports must be {max_ports}")
    number_type = Annotated[int, Within(0, max_ports - 1)]
    ends = [ports[number] for number in sorted(ports)]
    for (number, values), port in zip(saved, ends, strict=True):
        checked(number_type, "console port number", number)
        _check_port(f"console port {number}: ", values, port)
    numbers = {number for number, _ in saved}
    if len(numbers) < len(saved):
        raise ConfigurationError("saved console: two ports have one number")
    checked(bool, "console driver_ready", dialogue["driver_ready"])
    for part in ("announced", "ready"):
        if not numbers.issuperset(dialogue[part]):
            raise ConfigurationError(f"saved console: {part} has a port that there is not")
    if len(dialogue["messages"]) > MESSAGES_PER_PORT * max_ports:
        raise ConfigurationError(f"saved console: {len(dialogue['messages'])} messages are waiting")
    for port_number, event, value, extra in dialogue["messages"]:
        checked(U32, "console message port", port_number)
        checked(U16, "console message event", event)
        checked(U16, "console message value", value)
        checked(Annotated[bytes, Length(NAME_BYTES_MAX)], "console message extra", extra)
    for number, offset in state["offsets"]:
        checked(number_type, "console port number", number)
        checked(Annotated[int, Within(0, MAX_CHAIN_BYTES)], "console offset", offset)


def _check_port(where: str, values: Mapping[str, Any], port: ConsolePort) -> None:
    for name in ("host_open", "guest_open"):
        checked(bool, where + name, values[name])
    columns, rows = values["size"]
    checked(U16, where + "columns", columns)
    checked(U16, where + "rows", rows)
    waiting = Annotated[bytes, Length(port.buffer_bytes)]
    checked(waiting, where + "waiting", values["waiting"])

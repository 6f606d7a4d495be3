"""This module switches the controller's digital and analog outputs as the RTDE inputs of a client say.

Each output has a bit in a mask; bits outside the mask keep their outputs as they are.

Source: Universal Robots, "Real-Time Data Exchange (RTDE) Guide", tables of robot controller inputs and outputs.
"""

from collections.abc import Mapping
from typing import Any

_DIGITAL = {"standard": 0, "configurable": 8, "tool": 16}
"""Lowest bit of each group in actual_digital_output_bits."""
_AMPERE, _VOLT = (0.004, 0.016), (0.0, 10.0)
"""Value at share 0 and span of an analog output."""


def switch(values: dict[str, Any], inputs: Mapping[str, Any]) -> None:
    """Brings the outputs among the RTDE variables up to date with what a client has just written."""
    bits = values["actual_digital_output_bits"]
    for group, lowest in _DIGITAL.items():
        mask, wanted = inputs.get(f"{group}_digital_output_mask", 0), inputs.get(f"{group}_digital_output", 0)
        bits = bits & ~(mask << lowest) | (wanted & mask) << lowest
    values["actual_digital_output_bits"] = bits
    for index in range(2):
        share = inputs.get(f"standard_analog_output_{index}")
        if share is not None and inputs.get("standard_analog_output_mask", 0) >> index & 1:
            is_voltage = inputs.get("standard_analog_output_type", 0) >> index & 1
            low, span = _VOLT if is_voltage else _AMPERE
            values[f"standard_analog_output{index}"] = low + span * share

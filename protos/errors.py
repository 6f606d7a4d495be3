"""This module defines every error that TwinRL raises on purpose.

    TwinRLError
    ├── InputError (also ValueError)   a value, file or setting given by a person is wrong; the text says what to do
    │   ├── SchemaMismatch             data made for another observation layout or scene format
    │   └── SceneError                 photos or a scene folder that cannot become a twin
    ├── CorruptData                    bytes that do not decode: a segment, a weight chunk, a checkpoint
    ├── Unreachable (also OSError)     a service did not answer before its named deadline
    ├── LeaseLost                      another learner leads the run now; this one writes nothing more and ends
    └── ArmStopped                     the arm stopped and waits for its operator; nothing resumes by itself
        └── ArmHeld                    it stands and is well: a person says "go on", then it does

Every process prints the message of a `TwinRLError`, and what an OSError means, as one line and exits with 2; anything
else is a bug and shows its traceback.
"""


class TwinRLError(Exception):
    """The base of all errors raised on purpose."""


class InputError(TwinRLError, ValueError):
    """A value given by a person is wrong. The message holds the value, the limit and the valid choices."""


class SchemaMismatch(InputError):
    """Data or a scene was written for another schema."""


class SceneError(InputError):
    """Photos or a scene folder cannot become a twin."""


class CorruptData(TwinRLError):
    """Bytes failed their length, checksum or structure check. Drop them, count them, go on."""


class Unreachable(TwinRLError, OSError):
    """A service did not answer in time. The message names the service, its address and the deadline."""


class LeaseLost(TwinRLError):
    """Another learner has this one's lease. The message names it; nothing more of this one is taken."""


class ArmStopped(TwinRLError):
    """The arm is stopped (protective stop, lost link, operator hold). Only the operator resumes it."""


class ArmHeld(ArmStopped):
    """The arm stands and is well, and moves again once a person has said so. The message is the reason of the hold."""

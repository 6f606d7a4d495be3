from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GuidePose(_message.Message):
    __slots__ = ("x", "y", "z", "yaw")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    Z_FIELD_NUMBER: _ClassVar[int]
    YAW_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    z: float
    yaw: float
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ..., z: _Optional[float] = ..., yaw: _Optional[float] = ...) -> None: ...

class GuideConfiguration(_message.Message):
    __slots__ = ("region", "cell", "poses")
    class PosesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: GuidePose
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[GuidePose, _Mapping]] = ...) -> None: ...
    REGION_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    POSES_FIELD_NUMBER: _ClassVar[int]
    region: str
    cell: int
    poses: _containers.MessageMap[str, GuidePose]
    def __init__(self, region: _Optional[str] = ..., cell: _Optional[int] = ..., poses: _Optional[_Mapping[str, GuidePose]] = ...) -> None: ...

class NextRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Draw(_message.Message):
    __slots__ = ("configuration", "reason")
    CONFIGURATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    configuration: GuideConfiguration
    reason: str
    def __init__(self, configuration: _Optional[_Union[GuideConfiguration, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class ScanRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ScanStart(_message.Message):
    __slots__ = ("configuration",)
    CONFIGURATION_FIELD_NUMBER: _ClassVar[int]
    configuration: GuideConfiguration
    def __init__(self, configuration: _Optional[_Union[GuideConfiguration, _Mapping]] = ...) -> None: ...

class EpisodeReport(_message.Message):
    __slots__ = ("configuration", "outcome", "human_steps", "version", "id", "twin", "steps")
    CONFIGURATION_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    HUMAN_STEPS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    TWIN_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    configuration: GuideConfiguration
    outcome: str
    human_steps: int
    version: int
    id: str
    twin: bool
    steps: int
    def __init__(self, configuration: _Optional[_Union[GuideConfiguration, _Mapping]] = ..., outcome: _Optional[str] = ..., human_steps: _Optional[int] = ..., version: _Optional[int] = ..., id: _Optional[str] = ..., twin: _Optional[bool] = ..., steps: _Optional[int] = ...) -> None: ...

class Reported(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TwinEvaluation(_message.Message):
    __slots__ = ("cells", "version")
    class Cell(_message.Message):
        __slots__ = ("successes", "rollouts")
        SUCCESSES_FIELD_NUMBER: _ClassVar[int]
        ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
        successes: int
        rollouts: int
        def __init__(self, successes: _Optional[int] = ..., rollouts: _Optional[int] = ...) -> None: ...
    class CellsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: TwinEvaluation.Cell
        def __init__(self, key: _Optional[int] = ..., value: _Optional[_Union[TwinEvaluation.Cell, _Mapping]] = ...) -> None: ...
    CELLS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    cells: _containers.MessageMap[int, TwinEvaluation.Cell]
    version: int
    def __init__(self, cells: _Optional[_Mapping[int, TwinEvaluation.Cell]] = ..., version: _Optional[int] = ...) -> None: ...

class SuccessMapRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SuccessMapReply(_message.Message):
    __slots__ = ("cells", "last")
    class Cell(_message.Message):
        __slots__ = ("cell", "region", "twin_successes", "twin_rollouts", "real_successes", "real_episodes", "rate", "target", "x_min", "x_max", "y_min", "y_max", "twin_version")
        CELL_FIELD_NUMBER: _ClassVar[int]
        REGION_FIELD_NUMBER: _ClassVar[int]
        TWIN_SUCCESSES_FIELD_NUMBER: _ClassVar[int]
        TWIN_ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
        REAL_SUCCESSES_FIELD_NUMBER: _ClassVar[int]
        REAL_EPISODES_FIELD_NUMBER: _ClassVar[int]
        RATE_FIELD_NUMBER: _ClassVar[int]
        TARGET_FIELD_NUMBER: _ClassVar[int]
        X_MIN_FIELD_NUMBER: _ClassVar[int]
        X_MAX_FIELD_NUMBER: _ClassVar[int]
        Y_MIN_FIELD_NUMBER: _ClassVar[int]
        Y_MAX_FIELD_NUMBER: _ClassVar[int]
        TWIN_VERSION_FIELD_NUMBER: _ClassVar[int]
        cell: int
        region: str
        twin_successes: int
        twin_rollouts: int
        real_successes: int
        real_episodes: int
        rate: float
        target: bool
        x_min: float
        x_max: float
        y_min: float
        y_max: float
        twin_version: int
        def __init__(self, cell: _Optional[int] = ..., region: _Optional[str] = ..., twin_successes: _Optional[int] = ..., twin_rollouts: _Optional[int] = ..., real_successes: _Optional[int] = ..., real_episodes: _Optional[int] = ..., rate: _Optional[float] = ..., target: _Optional[bool] = ..., x_min: _Optional[float] = ..., x_max: _Optional[float] = ..., y_min: _Optional[float] = ..., y_max: _Optional[float] = ..., twin_version: _Optional[int] = ...) -> None: ...
    CELLS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    cells: _containers.RepeatedCompositeFieldContainer[SuccessMapReply.Cell]
    last: Draw
    def __init__(self, cells: _Optional[_Iterable[_Union[SuccessMapReply.Cell, _Mapping]]] = ..., last: _Optional[_Union[Draw, _Mapping]] = ...) -> None: ...

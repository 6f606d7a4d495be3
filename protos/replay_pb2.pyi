from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SegmentHeader(_message.Message):
    __slots__ = ("schema_hash", "actor", "incarnation", "seq", "codec", "task", "scene", "instruction", "start", "episode", "first_step", "steps", "outcome", "source", "oldest_version", "newest_version", "backbone_id", "embedding_dim", "image_bytes")
    class Pose(_message.Message):
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
    class Start(_message.Message):
        __slots__ = ("region", "cell", "poses")
        class PosesEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: SegmentHeader.Pose
            def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[SegmentHeader.Pose, _Mapping]] = ...) -> None: ...
        REGION_FIELD_NUMBER: _ClassVar[int]
        CELL_FIELD_NUMBER: _ClassVar[int]
        POSES_FIELD_NUMBER: _ClassVar[int]
        region: str
        cell: int
        poses: _containers.MessageMap[str, SegmentHeader.Pose]
        def __init__(self, region: _Optional[str] = ..., cell: _Optional[int] = ..., poses: _Optional[_Mapping[str, SegmentHeader.Pose]] = ...) -> None: ...
    SCHEMA_HASH_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    SCENE_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    EPISODE_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    OLDEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    NEWEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_ID_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_DIM_FIELD_NUMBER: _ClassVar[int]
    IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    schema_hash: str
    actor: str
    incarnation: str
    seq: int
    codec: str
    task: str
    scene: str
    instruction: str
    start: SegmentHeader.Start
    episode: str
    first_step: int
    steps: int
    outcome: str
    source: str
    oldest_version: int
    newest_version: int
    backbone_id: str
    embedding_dim: int
    image_bytes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, schema_hash: _Optional[str] = ..., actor: _Optional[str] = ..., incarnation: _Optional[str] = ..., seq: _Optional[int] = ..., codec: _Optional[str] = ..., task: _Optional[str] = ..., scene: _Optional[str] = ..., instruction: _Optional[str] = ..., start: _Optional[_Union[SegmentHeader.Start, _Mapping]] = ..., episode: _Optional[str] = ..., first_step: _Optional[int] = ..., steps: _Optional[int] = ..., outcome: _Optional[str] = ..., source: _Optional[str] = ..., oldest_version: _Optional[int] = ..., newest_version: _Optional[int] = ..., backbone_id: _Optional[str] = ..., embedding_dim: _Optional[int] = ..., image_bytes: _Optional[_Iterable[int]] = ...) -> None: ...

from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TensorEntry(_message.Message):
    __slots__ = ("name", "dtype", "shape", "offset")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    offset: int
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., offset: _Optional[int] = ...) -> None: ...

class WeightPart(_message.Message):
    __slots__ = ("name", "sha256", "size", "tensors")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: str
    size: int
    tensors: _containers.RepeatedCompositeFieldContainer[TensorEntry]
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[str] = ..., size: _Optional[int] = ..., tensors: _Optional[_Iterable[_Union[TensorEntry, _Mapping]]] = ...) -> None: ...

class WeightVersion(_message.Message):
    __slots__ = ("number", "published_unix_s", "settings_json", "parts", "schema_hash", "publisher", "lease")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_JSON_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_HASH_FIELD_NUMBER: _ClassVar[int]
    PUBLISHER_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    number: int
    published_unix_s: float
    settings_json: str
    parts: _containers.RepeatedCompositeFieldContainer[WeightPart]
    schema_hash: str
    publisher: str
    lease: int
    def __init__(self, number: _Optional[int] = ..., published_unix_s: _Optional[float] = ..., settings_json: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[WeightPart, _Mapping]]] = ..., schema_hash: _Optional[str] = ..., publisher: _Optional[str] = ..., lease: _Optional[int] = ...) -> None: ...

class WeightChunk(_message.Message):
    __slots__ = ("offset", "data", "crc32")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    crc32: int
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ..., crc32: _Optional[int] = ...) -> None: ...

class WeightsStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WeightsWatcher(_message.Message):
    __slots__ = ("name", "told", "using", "using_unix_s", "reported_unix_s", "peer", "id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TOLD_FIELD_NUMBER: _ClassVar[int]
    USING_FIELD_NUMBER: _ClassVar[int]
    USING_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    REPORTED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    told: int
    using: int
    using_unix_s: float
    reported_unix_s: float
    peer: str
    id: str
    def __init__(self, name: _Optional[str] = ..., told: _Optional[int] = ..., using: _Optional[int] = ..., using_unix_s: _Optional[float] = ..., reported_unix_s: _Optional[float] = ..., peer: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class WeightsStatus(_message.Message):
    __slots__ = ("highest", "newest", "held", "watchers", "lease")
    HIGHEST_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    WATCHERS_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    highest: int
    newest: WeightVersion
    held: _containers.RepeatedScalarFieldContainer[str]
    watchers: _containers.RepeatedCompositeFieldContainer[WeightsWatcher]
    lease: int
    def __init__(self, highest: _Optional[int] = ..., newest: _Optional[_Union[WeightVersion, _Mapping]] = ..., held: _Optional[_Iterable[str]] = ..., watchers: _Optional[_Iterable[_Union[WeightsWatcher, _Mapping]]] = ..., lease: _Optional[int] = ...) -> None: ...

class LeadRequest(_message.Message):
    __slots__ = ("lease", "holder")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    lease: int
    holder: str
    def __init__(self, lease: _Optional[int] = ..., holder: _Optional[str] = ...) -> None: ...

class Led(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ("version", "part_chunk")
    class PartChunk(_message.Message):
        __slots__ = ("sha256", "chunk")
        SHA256_FIELD_NUMBER: _ClassVar[int]
        CHUNK_FIELD_NUMBER: _ClassVar[int]
        sha256: str
        chunk: WeightChunk
        def __init__(self, sha256: _Optional[str] = ..., chunk: _Optional[_Union[WeightChunk, _Mapping]] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PART_CHUNK_FIELD_NUMBER: _ClassVar[int]
    version: WeightVersion
    part_chunk: PublishRequest.PartChunk
    def __init__(self, version: _Optional[_Union[WeightVersion, _Mapping]] = ..., part_chunk: _Optional[_Union[PublishRequest.PartChunk, _Mapping]] = ...) -> None: ...

class Published(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("name", "id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    id: str
    def __init__(self, name: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class PullRequest(_message.Message):
    __slots__ = ("sha256", "offset")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    offset: int
    def __init__(self, sha256: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class WeightsReport(_message.Message):
    __slots__ = ("id", "version", "in_use_s")
    ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IN_USE_S_FIELD_NUMBER: _ClassVar[int]
    id: str
    version: int
    in_use_s: float
    def __init__(self, id: _Optional[str] = ..., version: _Optional[int] = ..., in_use_s: _Optional[float] = ...) -> None: ...

class WeightsReportAnswer(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

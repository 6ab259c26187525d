from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    UNDECIDED: _ClassVar[Outcome]
    COMMITTED: _ClassVar[Outcome]
    ROLLED_BACK: _ClassVar[Outcome]
OUTCOME_UNSPECIFIED: Outcome
UNDECIDED: Outcome
COMMITTED: Outcome
ROLLED_BACK: Outcome

class Word(_message.Message):
    __slots__ = ("migration",)
    MIGRATION_FIELD_NUMBER: _ClassVar[int]
    migration: str
    def __init__(self, migration: _Optional[str] = ...) -> None: ...

class FreezeRequest(_message.Message):
    __slots__ = ("migration", "live")
    MIGRATION_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    migration: str
    live: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, migration: _Optional[str] = ..., live: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Address(_message.Message):
    __slots__ = ("address", "prefix")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    address: str
    prefix: int
    def __init__(self, address: _Optional[str] = ..., prefix: _Optional[int] = ...) -> None: ...

class Route(_message.Message):
    __slots__ = ("destination", "gateway", "onlink", "metric", "source")
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    ONLINK_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    destination: str
    gateway: str
    onlink: bool
    metric: int
    source: str
    def __init__(self, destination: _Optional[str] = ..., gateway: _Optional[str] = ..., onlink: _Optional[bool] = ..., metric: _Optional[int] = ..., source: _Optional[str] = ...) -> None: ...

class Identity(_message.Message):
    __slots__ = ("namespace", "name", "mac", "mtu", "addresses", "routes", "port", "port_mac", "bridge", "index")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    PORT_MAC_FIELD_NUMBER: _ClassVar[int]
    BRIDGE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    mac: str
    mtu: int
    addresses: _containers.RepeatedCompositeFieldContainer[Address]
    routes: _containers.RepeatedCompositeFieldContainer[Route]
    port: str
    port_mac: str
    bridge: str
    index: int
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., mac: _Optional[str] = ..., mtu: _Optional[int] = ..., addresses: _Optional[_Iterable[_Union[Address, _Mapping]]] = ..., routes: _Optional[_Iterable[_Union[Route, _Mapping]]] = ..., port: _Optional[str] = ..., port_mac: _Optional[str] = ..., bridge: _Optional[str] = ..., index: _Optional[int] = ...) -> None: ...

class Needs(_message.Message):
    __slots__ = ("cpu", "paths")
    CPU_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    cpu: bytes
    paths: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, cpu: _Optional[bytes] = ..., paths: _Optional[_Iterable[str]] = ...) -> None: ...

class Traits(_message.Message):
    __slots__ = ("kernel", "architecture", "cgroups", "security", "profiles", "seccomp", "limits", "raises_limits", "features", "wall", "certificate_expires")
    class LimitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    CGROUPS_FIELD_NUMBER: _ClassVar[int]
    SECURITY_FIELD_NUMBER: _ClassVar[int]
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    SECCOMP_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    RAISES_LIMITS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    WALL_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_EXPIRES_FIELD_NUMBER: _ClassVar[int]
    kernel: str
    architecture: str
    cgroups: str
    security: _containers.RepeatedScalarFieldContainer[str]
    profiles: _containers.RepeatedScalarFieldContainer[str]
    seccomp: bool
    limits: _containers.ScalarMap[str, int]
    raises_limits: bool
    features: _containers.RepeatedScalarFieldContainer[str]
    wall: float
    certificate_expires: float
    def __init__(self, kernel: _Optional[str] = ..., architecture: _Optional[str] = ..., cgroups: _Optional[str] = ..., security: _Optional[_Iterable[str]] = ..., profiles: _Optional[_Iterable[str]] = ..., seccomp: _Optional[bool] = ..., limits: _Optional[_Mapping[str, int]] = ..., raises_limits: _Optional[bool] = ..., features: _Optional[_Iterable[str]] = ..., wall: _Optional[float] = ..., certificate_expires: _Optional[float] = ...) -> None: ...

class ProbeRequest(_message.Message):
    __slots__ = ("container", "identity", "needs")
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    NEEDS_FIELD_NUMBER: _ClassVar[int]
    container: str
    identity: Identity
    needs: Needs
    def __init__(self, container: _Optional[str] = ..., identity: _Optional[_Union[Identity, _Mapping]] = ..., needs: _Optional[_Union[Needs, _Mapping]] = ...) -> None: ...

class ProbeReply(_message.Message):
    __slots__ = ("runtime", "runtime_program", "criu", "criu_problem", "voyfs_problem", "memory_free", "container_taken", "directory", "directory_taken", "namespace_taken", "port_taken", "bridge_present", "addresses_taken", "disk_free", "traits", "inodes_free", "cpu_problem", "missing")
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_PROGRAM_FIELD_NUMBER: _ClassVar[int]
    CRIU_FIELD_NUMBER: _ClassVar[int]
    CRIU_PROBLEM_FIELD_NUMBER: _ClassVar[int]
    VOYFS_PROBLEM_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FREE_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_TAKEN_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_TAKEN_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_TAKEN_FIELD_NUMBER: _ClassVar[int]
    PORT_TAKEN_FIELD_NUMBER: _ClassVar[int]
    BRIDGE_PRESENT_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_TAKEN_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_FIELD_NUMBER: _ClassVar[int]
    TRAITS_FIELD_NUMBER: _ClassVar[int]
    INODES_FREE_FIELD_NUMBER: _ClassVar[int]
    CPU_PROBLEM_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    runtime: str
    runtime_program: str
    criu: str
    criu_problem: str
    voyfs_problem: str
    memory_free: int
    container_taken: bool
    directory: str
    directory_taken: str
    namespace_taken: bool
    port_taken: bool
    bridge_present: bool
    addresses_taken: _containers.RepeatedScalarFieldContainer[str]
    disk_free: int
    traits: Traits
    inodes_free: int
    cpu_problem: str
    missing: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, runtime: _Optional[str] = ..., runtime_program: _Optional[str] = ..., criu: _Optional[str] = ..., criu_problem: _Optional[str] = ..., voyfs_problem: _Optional[str] = ..., memory_free: _Optional[int] = ..., container_taken: _Optional[bool] = ..., directory: _Optional[str] = ..., directory_taken: _Optional[str] = ..., namespace_taken: _Optional[bool] = ..., port_taken: _Optional[bool] = ..., bridge_present: _Optional[bool] = ..., addresses_taken: _Optional[_Iterable[str]] = ..., disk_free: _Optional[int] = ..., traits: _Optional[_Union[Traits, _Mapping]] = ..., inodes_free: _Optional[int] = ..., cpu_problem: _Optional[str] = ..., missing: _Optional[_Iterable[str]] = ...) -> None: ...

class Filler(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class PrepareRequest(_message.Message):
    __slots__ = ("migration", "container", "config", "identity", "export", "fetch", "look_up", "files", "pipes", "image_bytes", "source_agent", "volumes", "network", "volume_exports", "seeds", "memory_follows", "warm")
    class FilesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    MIGRATION_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    EXPORT_FIELD_NUMBER: _ClassVar[int]
    FETCH_FIELD_NUMBER: _ClassVar[int]
    LOOK_UP_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    PIPES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_AGENT_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    VOLUME_EXPORTS_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FOLLOWS_FIELD_NUMBER: _ClassVar[int]
    WARM_FIELD_NUMBER: _ClassVar[int]
    migration: str
    container: str
    config: bytes
    identity: Identity
    export: str
    fetch: _containers.RepeatedScalarFieldContainer[bytes]
    look_up: _containers.RepeatedScalarFieldContainer[bytes]
    files: _containers.ScalarMap[str, bytes]
    pipes: _containers.RepeatedScalarFieldContainer[int]
    image_bytes: int
    source_agent: str
    volumes: _containers.RepeatedScalarFieldContainer[bytes]
    network: str
    volume_exports: _containers.RepeatedScalarFieldContainer[str]
    seeds: _containers.RepeatedScalarFieldContainer[bytes]
    memory_follows: bool
    warm: bool
    def __init__(self, migration: _Optional[str] = ..., container: _Optional[str] = ..., config: _Optional[bytes] = ..., identity: _Optional[_Union[Identity, _Mapping]] = ..., export: _Optional[str] = ..., fetch: _Optional[_Iterable[bytes]] = ..., look_up: _Optional[_Iterable[bytes]] = ..., files: _Optional[_Mapping[str, bytes]] = ..., pipes: _Optional[_Iterable[int]] = ..., image_bytes: _Optional[int] = ..., source_agent: _Optional[str] = ..., volumes: _Optional[_Iterable[bytes]] = ..., network: _Optional[str] = ..., volume_exports: _Optional[_Iterable[str]] = ..., seeds: _Optional[_Iterable[bytes]] = ..., memory_follows: _Optional[bool] = ..., warm: _Optional[bool] = ...) -> None: ...

class ImagePiece(_message.Message):
    __slots__ = ("migration", "name", "offset", "data", "last", "digest", "compressed")
    MIGRATION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    COMPRESSED_FIELD_NUMBER: _ClassVar[int]
    migration: str
    name: str
    offset: int
    data: bytes
    last: bool
    digest: bytes
    compressed: bool
    def __init__(self, migration: _Optional[str] = ..., name: _Optional[str] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., last: _Optional[bool] = ..., digest: _Optional[bytes] = ..., compressed: _Optional[bool] = ...) -> None: ...

class Touched(_message.Message):
    __slots__ = ("path", "mtime_ns")
    PATH_FIELD_NUMBER: _ClassVar[int]
    MTIME_NS_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    mtime_ns: int
    def __init__(self, path: _Optional[bytes] = ..., mtime_ns: _Optional[int] = ...) -> None: ...

class RestoreRequest(_message.Message):
    __slots__ = ("migration", "touched", "pages")
    MIGRATION_FIELD_NUMBER: _ClassVar[int]
    TOUCHED_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    migration: str
    touched: _containers.RepeatedCompositeFieldContainer[Touched]
    pages: str
    def __init__(self, migration: _Optional[str] = ..., touched: _Optional[_Iterable[_Union[Touched, _Mapping]]] = ..., pages: _Optional[str] = ...) -> None: ...

class PagesReply(_message.Message):
    __slots__ = ("complete", "progress")
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    complete: bool
    progress: Progress
    def __init__(self, complete: _Optional[bool] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ...) -> None: ...

class HowFarReply(_message.Message):
    __slots__ = ("progress",)
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("name", "offset", "seconds", "bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    offset: float
    seconds: float
    bytes: int
    def __init__(self, name: _Optional[str] = ..., offset: _Optional[float] = ..., seconds: _Optional[float] = ..., bytes: _Optional[int] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("steps", "ago", "bytes", "answered")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    AGO_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[Step]
    ago: float
    bytes: int
    answered: float
    def __init__(self, steps: _Optional[_Iterable[_Union[Step, _Mapping]]] = ..., ago: _Optional[float] = ..., bytes: _Optional[int] = ..., answered: _Optional[float] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("bytes_present", "bytes_total", "files_present", "files_total", "fetched_bytes", "rate", "eta", "complete", "seed_bytes")
    BYTES_PRESENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    FILES_PRESENT_FIELD_NUMBER: _ClassVar[int]
    FILES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    FETCHED_BYTES_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    ETA_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    SEED_BYTES_FIELD_NUMBER: _ClassVar[int]
    bytes_present: int
    bytes_total: int
    files_present: int
    files_total: int
    fetched_bytes: int
    rate: float
    eta: float
    complete: bool
    seed_bytes: int
    def __init__(self, bytes_present: _Optional[int] = ..., bytes_total: _Optional[int] = ..., files_present: _Optional[int] = ..., files_total: _Optional[int] = ..., fetched_bytes: _Optional[int] = ..., rate: _Optional[float] = ..., eta: _Optional[float] = ..., complete: _Optional[bool] = ..., seed_bytes: _Optional[int] = ...) -> None: ...

class StandingReply(_message.Message):
    __slots__ = ("hold",)
    HOLD_FIELD_NUMBER: _ClassVar[int]
    hold: str
    def __init__(self, hold: _Optional[str] = ...) -> None: ...

class GiveBackRequest(_message.Message):
    __slots__ = ("migration", "verify", "volumes", "network", "compress")
    class VolumesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MIGRATION_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    COMPRESS_FIELD_NUMBER: _ClassVar[int]
    migration: str
    verify: bool
    volumes: _containers.ScalarMap[str, str]
    network: str
    compress: bool
    def __init__(self, migration: _Optional[str] = ..., verify: _Optional[bool] = ..., volumes: _Optional[_Mapping[str, str]] = ..., network: _Optional[str] = ..., compress: _Optional[bool] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: bytes
    def __init__(self, json: _Optional[bytes] = ...) -> None: ...

class OutcomeReply(_message.Message):
    __slots__ = ("outcome",)
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    outcome: Outcome
    def __init__(self, outcome: _Optional[_Union[Outcome, str]] = ...) -> None: ...

"""Messages: the message classes of the Open Inference Protocol, in a separate descriptor pool.

Every implementation of the protocol declares package `inference`; two of them in protobuf's default pool are an error
at import. A private pool lets this server and tritonclient (or KServe, MLServer) live in one process. `messages.pyi`,
made by `nested_sparse.proto.build`, lists the names for type checkers.
"""

from __future__ import annotations

from importlib.resources import files

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message_factory import GetMessageClass

POOL = DescriptorPool()
SERVICE_NAME = "inference.GRPCInferenceService"

(_file,) = FileDescriptorSet.FromString((files("nested_sparse.proto") / "open_inference.binpb").read_bytes()).file
DESCRIPTOR = POOL.AddSerializedFile(_file.SerializeToString())
for _name, _message in DESCRIPTOR.message_types_by_name.items():
    globals()[_name] = GetMessageClass(_message)
for _name, _enum in DESCRIPTOR.enum_types_by_name.items():
    globals()[_name] = EnumTypeWrapper(_enum)
    globals().update(globals()[_name].items())

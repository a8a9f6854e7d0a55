"""Schema of ONNX's messages: their fields by number, as in onnx.proto of IR version 13, each with the way it is read.

Fields of the kind `refused` are not needed in a checkpoint: other files, functions, sparse tensors, training, devices.
Fields of the kind `unread` name no file, and ONNX Runtime only carries them along or checks them by itself.
"""

from __future__ import annotations

from ..wire import Field, Schema


def _schema(**fields: tuple[int, str]) -> Schema:
    return {number: Field(name, kind) for name, (number, kind) in fields.items()}


MODEL = _schema(
    ir_version=(1, "integer"),
    producer_name=(2, "unread"),
    producer_version=(3, "unread"),
    domain=(4, "unread"),
    model_version=(5, "unread"),
    doc_string=(6, "unread"),
    graph=(7, "bytes"),
    opset_import=(8, "messages"),
    metadata_props=(14, "messages"),
    training_info=(20, "refused"),
    functions=(25, "refused"),
    configuration=(26, "refused"),
)
OPSET = _schema(domain=(1, "text"), version=(2, "integer"))
ENTRY = _schema(key=(1, "text"), value=(2, "unread"))
GRAPH = _schema(
    node=(1, "messages"),
    name=(2, "text"),
    initializer=(5, "messages"),
    doc_string=(10, "unread"),
    input=(11, "messages"),
    output=(12, "messages"),
    value_info=(13, "unread"),
    quantization_annotation=(14, "refused"),
    sparse_initializer=(15, "refused"),
    metadata_props=(16, "unread"),
)
VALUE = _schema(name=(1, "text"), type=(2, "unread"), doc_string=(3, "unread"), metadata_props=(4, "unread"))
NODE = _schema(
    input=(1, "texts"),
    output=(2, "texts"),
    name=(3, "text"),
    op_type=(4, "text"),
    attribute=(5, "messages"),
    doc_string=(6, "unread"),
    domain=(7, "text"),
    overload=(8, "text"),
    metadata_props=(9, "unread"),
    device_configurations=(10, "refused"),
)
ATTRIBUTE = _schema(
    name=(1, "text"),
    f=(2, "fixed32"),
    i=(3, "integer"),
    s=(4, "bytes"),
    t=(5, "bytes"),
    g=(6, "bytes"),
    floats=(7, "fixed32s"),
    ints=(8, "integers"),
    strings=(9, "messages"),
    tensors=(10, "refused"),
    graphs=(11, "refused"),
    doc_string=(13, "unread"),
    tp=(14, "refused"),
    type_protos=(15, "refused"),
    type=(20, "integer"),
    ref_attr_name=(21, "refused"),
    sparse_tensor=(22, "refused"),
    sparse_tensors=(23, "refused"),
)
TENSOR = _schema(
    dims=(1, "integers"),
    data_type=(2, "integer"),
    segment=(3, "refused"),
    float_data=(4, "fixed32s"),
    int32_data=(5, "integers"),
    string_data=(6, "refused"),
    int64_data=(7, "integers"),
    name=(8, "text"),
    raw_data=(9, "bytes"),
    double_data=(10, "fixed64s"),
    uint64_data=(11, "integers"),
    doc_string=(12, "unread"),
    external_data=(13, "refused"),
    data_location=(14, "integer"),
    metadata_props=(16, "unread"),
)

ATTRIBUTE_TYPES = {1: "f", 2: "i", 3: "s", 4: "t", 5: "g", 6: "floats", 7: "ints", 8: "strings"}
"""Field of AttributeProto that holds the value, by AttributeProto.type."""
STRING_TYPE = 8
"""TensorProto.data_type of a text."""
TENSOR_BITS = {
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((7, 11, 13, 14), 64),
    15: 128,
    **dict.fromkeys((21, 22, 23), 4),
}
"""Bits of a value, by TensorProto.data_type; texts and unknown types are left out."""

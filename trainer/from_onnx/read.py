"""Read: an ONNX file as a graph in memory, with all its weights, after checks of what the file says of itself."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir import external_data

from nested_sparse.argument import file_path
from nested_sparse.errors import ExportError, NestedSparseError
from nested_sparse.excerpt import excerpt

from ..entry import described
from ..export.trace import quiet_exporter
from .sparse import made_dense

log = logging.getLogger(__name__)

MAX_NODES = 50_000
"""Most nodes of a graph; a checkpoint may hold no more (nested_sparse/graph/check.py)."""


def read_onnx(path: str | os.PathLike[str]) -> ir.Model:
    """The model in the file at `path`, with the values of its external data.

    Raises ExportError: there is no such file, it is no ONNX file, it is cut off, or its external data are missing, too
    short, or outside of its folder.
    """
    path = file_path("path", path)
    if not path.is_file():
        raise ExportError(f"{path}: expected an ONNX file, there is {'a folder' if path.is_dir() else 'no such file'}")
    try:
        with quiet_exporter():
            proto = onnx.load(path, load_external_data=False)
            if not proto.graph.node:
                raise ExportError(f"{path}: holds no graph with nodes, or only a part of one; copy or export it again")
            _leave_out_outputs(proto, path.name)
            made_dense(proto, path.name)
            model = ir.from_proto(proto)
        external_data.set_base_dir(model.graph, path.parent)
    except NestedSparseError:
        raise
    except Exception as error:  # of protobuf, or of onnx_ir for what protobuf reads from any bytes
        raise ExportError(
            f"{path}: is no ONNX file, or a damaged one ({described(error)}); copy or export it again"
        ) from error
    if model.graph.num_nodes() > MAX_NODES:
        raise ExportError(f"{path}: has {model.graph.num_nodes()} nodes, a checkpoint holds at most {MAX_NODES}")
    for tensor in _external(model):
        _check_external(path, tensor)
    try:
        external_data.load_to_model(model)
    except Exception as error:  # the system's, or those of onnx_ir
        raise ExportError(f"{path}: its external data cannot be read ({described(error)})") from error
    return model


def _leave_out_outputs(model: onnx.ModelProto, where: str) -> None:
    """Remove the outputs that are no tensors of numbers: class names of scikit-learn's models, and maps of them.

    The tensor that a ZipMap makes maps of is an output in their place.
    """
    maps = {node.output[0]: node for node in model.graph.node if node.op_type == "ZipMap"}
    for node in maps.values():
        node.op_type, node.domain = "Identity", ""
        del node.attribute[:]
    kept: list[onnx.ValueInfoProto] = []
    left_out: list[onnx.ValueInfoProto] = []
    for value in model.graph.output:
        if value.name in maps:
            value.type.CopyFrom(onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None))
        kind = value.type.WhichOneof("value")
        fits = kind is None or (kind == "tensor_type" and value.type.tensor_type.elem_type != onnx.TensorProto.STRING)
        (kept if fits else left_out).append(value)
    if not kept:
        raise ExportError(f"{where}: has no output that is a tensor of numbers; give it one")
    if left_out:
        names = ", ".join(repr(excerpt(value.name)) for value in left_out)
        log.warning("%s: outputs that are no tensors of numbers are left out: %s", where, names)
        del model.graph.output[:]
        model.graph.output.extend(kept)


def _external(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """Every tensor of which the values are in another file: initializers, and attributes of nodes."""
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in graphs:
        if isinstance(graph, ir.Graph):
            yield from _of_initializers(graph)
        for node in ir.traversal.RecursiveGraphIterator(graph):
            for attribute in node.attributes.values():
                if isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.TENSOR:
                    if isinstance(attribute.value, ir.ExternalTensor):
                        yield attribute.value
                elif isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.GRAPH:
                    yield from _of_initializers(attribute.as_graph())


def _of_initializers(graph: ir.Graph) -> Iterator[ir.ExternalTensor]:
    held = (value.const_value for value in graph.initializers.values())
    return (tensor for tensor in held if isinstance(tensor, ir.ExternalTensor))


def _check_external(path: Path, tensor: ir.ExternalTensor) -> None:
    """Raise ExportError unless the values of `tensor` lie in a file beside the model's, all of them."""
    location = os.fspath(tensor.location)
    where = f"{path}: tensor {excerpt(tensor.name or '')!r} has its values in {excerpt(location)!r}"
    folder = path.parent.resolve()
    found = (folder / location).resolve()
    if os.path.isabs(location) or not found.is_relative_to(folder):
        raise ExportError(f"{where}, outside of the model's folder; such files are not read: move it beside the model")
    if not found.is_file():
        raise ExportError(f"{where}, and {found} is not there; copy it beside the model, or save the model as one file")
    shape = tensor.shape.numpy()
    if any(size < 0 for size in shape):
        raise ExportError(f"{where}, with the shape {list(shape)}; the file is damaged: export it again")
    wanted = math.ceil(math.prod(shape) * tensor.dtype.bitwidth / 8)
    begin, size = tensor.offset or 0, found.stat().st_size
    if begin < 0 or (tensor.length is not None and tensor.length < wanted) or begin + wanted > size:
        raise ExportError(
            f"{where}: expected {wanted} bytes from byte {begin} on, the file has {size}; copy or export it again"
        )

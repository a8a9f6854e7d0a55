"""Operators: the names in ONNX's domain that a checkpoint's graph may hold, and bounds on their results of constants.

This is an allow list, because ONNX Runtime has hundreds of other operators in domains of its own. Some of these read
files, call other libraries or run whole models. Left out of ONNX's domain are operators on texts (String*,
RegexFullMatch, TfIdfVectorizer: no input of ours is a text, and we can set no bound on the size of one), ImageDecoder,
Optional*, SequenceMap and training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

ONNX_DOMAINS = frozenset({"", "ai.onnx"})
LOOPS = frozenset({"Loop", "Scan"})
BRANCHES = frozenset({"If"})
DECIDING = frozenset({"If", "Loop"})
"""Operators that decide by one value for the whole batch. A Scan does not: it runs as often as its input is long."""

_PER_VALUE = """
Abs Acos Acosh Asin Asinh Atan Atanh BitCast BitwiseNot Cast CastLike Ceil Celu Clip Cos Cosh CumProd CumSum Dropout
Elu Erf Exp Floor Gelu HardSigmoid HardSwish Hardmax Identity IsInf IsNaN LeakyRelu Log LogSoftmax LpNormalization
MeanVarianceNormalization Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softmax Softplus
Softsign Sqrt Swish SwiGLU Tan Tanh ThresholdedRelu Trilu
"""
_FEWER_VALUES = """
ArgMax ArgMin Compress DepthToSpace Flatten GlobalAveragePool GlobalLpPool GlobalMaxPool ReduceL1 ReduceL2
ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Reshape
ReverseSequence Slice SpaceToDepth Split Squeeze Transpose Unsqueeze
"""
_BROADCAST = """
Add And BitShift BitwiseAnd BitwiseOr BitwiseXor DequantizeLinear Div Equal Gather Greater GreaterOrEqual Less
LessOrEqual Max Mean Min Mod Mul Or PRelu Pow QuantizeLinear Sub Sum Where Xor
"""
_JOINED = "Concat GatherElements ScatterElements ScatterND"
_ANY_SIZE = """
AffineGrid Attention AveragePool BatchNormalization Bernoulli BlackmanWindow CausalConvWithState CenterCropPad Col2Im
ConcatFromSequence Constant ConstantOfShape Conv ConvInteger ConvTranspose DFT DeformConv Det DynamicQuantizeLinear
Einsum Expand EyeLike GRU GatherND Gemm GridSample GroupNormalization HammingWindow HannWindow If
InstanceNormalization LRN LSTM LayerNormalization LinearAttention Loop LpPool MatMul MatMulInteger MaxPool MaxRoiPool
MaxUnpool MelWeightMatrix Multinomial NegativeLogLikelihoodLoss NonMaxSuppression NonZero OneHot Pad QLinearConv
QLinearMatMul RMSNormalization RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Resize RoiAlign
RotaryEmbedding STFT Scan Scatter SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert
SequenceLength Shape Size SoftmaxCrossEntropyLoss SplitToSequence TensorScatter Tile TopK Unique Upsample
"""

_SIZES: Mapping[str, Callable[[Sequence[int]], int]] = {
    **dict.fromkeys((*_PER_VALUE.split(), *_FEWER_VALUES.split()), max),
    **dict.fromkeys(_BROADCAST.split(), math.prod),
    **dict.fromkeys(_JOINED.split(), sum),
}
OPERATORS = frozenset(_SIZES) | frozenset(_ANY_SIZE.split())
"""Names of the allowed operators, at any version that ONNX Runtime has."""

SHAPE_OPERATORS = frozenset({"Shape", "Size"})
MAX_RANK = 16


def most_values(operator: str, inputs: Sequence[int]) -> int | None:
    """The most values that an output of `operator` has; None where no bound is known.

    inputs: the most values of each input.
    """
    if operator in SHAPE_OPERATORS:
        return MAX_RANK
    size = _SIZES.get(operator)
    return None if size is None or not inputs else size(inputs)

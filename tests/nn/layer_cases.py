"""The table of layers that are compared with PyTorch's."""

from __future__ import annotations

import numpy as np
from nn_harness import Case

ACTIVATIONS = [
    Case("ReLU"),
    Case("ReLU", (True,)),
    Case("Hardtanh", (), {"inplace": True}),
    Case("SELU", (True,)),
    Case("ReLU6", inputs=((3, 20),)),
    Case("LeakyReLU", (0.2,)),
    Case("PReLU", inputs=((2, 3, 4),)),
    Case("PReLU", (3,), inputs=((2, 3, 4),)),
    Case("PReLU", (3,)),
    Case("RReLU", (0.1, 0.4), train=False),
    Case("ELU", (1.5,)),
    Case("SELU"),
    Case("CELU", (0.7,), tolerance=1e-7),  # PyTorch holds its constants in float32
    Case("GELU"),
    Case("GELU", (), {"approximate": "tanh"}),
    Case("SiLU"),
    Case("Mish"),
    Case("Hardswish", inputs=((3, 20),)),
    Case("Hardsigmoid", inputs=((3, 20),), tolerance=1e-7),  # the same
    Case("Hardtanh", (-0.5, 0.7)),
    Case("Hardshrink", (0.3,)),
    Case("Softshrink", (0.3,)),
    Case("Tanhshrink"),
    Case("Softplus"),
    Case("Softplus", (2.0, 1.0)),
    Case("Softsign"),
    Case("Sigmoid"),
    Case("LogSigmoid"),
    Case("Tanh"),
    Case("Threshold", (0.1, 20.0)),
    Case("GLU", inputs=((2, 6),)),
    Case("GLU", (0,), inputs=((4, 3),)),
    Case("Softmax", (), {"dim": 1}),
    Case("Softmax", (), {"dim": 0}, inputs=((3, 2, 2),)),
    Case("LogSoftmax", (), {"dim": -1}),
    Case("Softmin", (), {"dim": 1}),
    Case("Softmax2d", inputs=((2, 3, 2, 2),)),
    Case("Softmax2d", inputs=((3, 2, 2),)),
    Case("Identity"),
]

LINEAR = [
    Case("Linear", (3, 4)),
    Case("Linear", (3, 4), {"bias": False}, inputs=((2, 5, 3),)),
    Case("Linear", (3, 4), inputs=((3,),)),
    Case("Linear", (3, 4), inputs=((0, 3),)),
    Case("Bilinear", (3, 4, 5), inputs=((2, 3), (2, 4))),
    Case("Bilinear", (3, 4, 2), {"bias": False}, inputs=((2, 6, 3), (2, 6, 4))),
    Case("Flatten", inputs=((2, 3, 4),)),
    Case("Flatten", (0, 1), inputs=((2, 3, 4),)),
    Case("Unflatten", (1, (2, 3)), inputs=((2, 6),)),
    Case("CosineSimilarity", inputs=((2, 3), (2, 3))),
    Case("CosineSimilarity", (-1,), inputs=((2, 4, 3), (4, 3))),
    Case("PairwiseDistance", inputs=((2, 3), (2, 3))),
    Case("PairwiseDistance", (1.0,), {"keepdim": True}, inputs=((2, 3), (2, 3))),
    Case("PairwiseDistance", (3.0,), inputs=((2, 3), (2, 3))),
]

CONVOLUTIONS = [
    Case("Conv1d", (2, 4, 3), inputs=((2, 2, 7),)),
    Case("Conv1d", (2, 4, 3), {"stride": 2, "padding": 1, "dilation": 2, "groups": 2}, inputs=((2, 2, 9),)),
    Case("Conv1d", (2, 3, 4), {"padding": "same", "bias": False}, inputs=((2, 6),)),
    Case("Conv2d", (3, 4, 3), inputs=((2, 3, 5, 6),)),
    Case("Conv2d", (3, 4, (3, 2)), {"stride": (2, 1), "padding": (1, 0)}, inputs=((2, 3, 5, 6),)),
    Case("Conv2d", (4, 4, 3), {"groups": 4, "padding": "valid"}, inputs=((1, 4, 4, 4),)),
    Case("Conv2d", (2, 4, 3), {"padding": 1, "padding_mode": "reflect"}, inputs=((1, 2, 4, 4),)),
    Case("Conv2d", (2, 4, 3), {"padding": (1, 2), "padding_mode": "replicate"}, inputs=((1, 2, 4, 4),)),
    Case("Conv2d", (2, 4, 3), {"padding": "same", "padding_mode": "circular"}, inputs=((2, 4, 4),)),
    Case("Conv3d", (1, 2, 2), {"stride": 2, "padding": 1}, inputs=((1, 1, 4, 3, 4),)),
    Case("ConvTranspose1d", (2, 4, 3), {"stride": 2, "output_padding": 1}, inputs=((2, 2, 5),)),
    Case("ConvTranspose1d", (4, 2, 3), {"groups": 2, "dilation": 2, "padding": 1}, inputs=((4, 5),)),
    Case("ConvTranspose2d", (2, 3, 3), {"stride": 2, "padding": 1}, inputs=((1, 2, 3, 4),)),
    Case(
        "ConvTranspose2d",
        (2, 3, 3),
        {"stride": 2, "padding": 1, "bias": False},
        inputs=((1, 2, 3, 4),),
        call={"output_size": (6, 8)},
    ),
    Case("ConvTranspose3d", (1, 2, 2), {"stride": 2}, inputs=((1, 1, 2, 2, 2),)),
    Case("Fold", ((4, 5), (2, 3)), {"padding": 1, "stride": (2, 1)}, inputs=((2, 12, 15),)),
    Case("Fold", ((3, 3), 2), inputs=((4, 4),)),
    Case("Unfold", ((2, 3),), {"padding": 1, "stride": (2, 1), "dilation": (1, 1)}, inputs=((2, 2, 4, 5),)),
    Case("Unfold", (2,), {"dilation": 2}, inputs=((1, 4, 4),)),
]

POOLS = [
    Case("MaxPool1d", (2,), inputs=((2, 3, 7),)),
    Case("MaxPool1d", (3,), {"stride": 2, "padding": 1, "ceil_mode": True}, inputs=((3, 8),)),
    Case("MaxPool1d", (2,), {"return_indices": True}, inputs=((2, 3, 6),)),
    Case("MaxPool2d", (2,), inputs=((2, 3, 4, 5),)),
    Case("MaxPool2d", ((3, 2),), {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}, inputs=((1, 2, 6, 6),)),
    Case("MaxPool2d", (3, 2), {"ceil_mode": True, "return_indices": True}, inputs=((1, 2, 6, 7),)),
    Case("MaxPool2d", (3,), {"padding": 1, "return_indices": True}, inputs=((2, 5, 5),)),
    Case("MaxPool3d", (2,), inputs=((1, 2, 4, 4, 4),)),
    Case("AvgPool1d", (3,), {"stride": 2, "padding": 1}, inputs=((2, 3, 7),)),
    Case("AvgPool1d", (3,), {"padding": 1, "count_include_pad": False}, inputs=((3, 7),)),
    Case("AvgPool2d", (2,), inputs=((2, 3, 4, 5),)),
    Case("AvgPool2d", (3, 2, 1, True, False), inputs=((1, 2, 6, 7),)),
    Case("AvgPool2d", (3, 2, 1, True, True), inputs=((1, 2, 6, 7),)),
    Case("AvgPool2d", (3, 2), {"divisor_override": 5}, inputs=((1, 2, 6, 7),)),
    Case("AvgPool3d", (2,), {"stride": 1, "padding": 1}, inputs=((1, 1, 3, 3, 3),)),
    Case("AvgPool3d", ((2, 1, 2),), {"ceil_mode": True}, inputs=((1, 3, 3, 3),)),
    Case("AdaptiveAvgPool1d", (3,), inputs=((2, 3, 7),)),
    Case("AdaptiveAvgPool1d", (3,), inputs=((3, 6),)),
    Case("AdaptiveAvgPool2d", (1,), inputs=((2, 3, 4, 5),)),
    Case("AdaptiveAvgPool2d", ((3, None),), inputs=((2, 3, 5, 4),)),
    Case("AdaptiveAvgPool2d", ((7, 3),), inputs=((1, 2, 3, 3),)),
    Case("AdaptiveAvgPool3d", ((2, 1, 3),), inputs=((1, 2, 3, 4, 5),)),
    Case("AdaptiveMaxPool1d", (3,), inputs=((2, 3, 7),)),
    Case("AdaptiveMaxPool1d", (3,), {"return_indices": True}, inputs=((2, 3, 7),)),
    Case("AdaptiveMaxPool2d", ((3, 2),), {"return_indices": True}, inputs=((2, 3, 5, 4),)),
    Case("AdaptiveMaxPool2d", (2,), inputs=((3, 4, 4),)),
    Case("AdaptiveMaxPool3d", ((2, 1, 3),), {"return_indices": True}, inputs=((1, 2, 3, 4, 5),)),
    Case("LPPool1d", (2, 2), inputs=((2, 3, 6),), positive=True),
    Case("LPPool2d", (3, 2), {"stride": 1}, inputs=((1, 2, 4, 4),), positive=True),
    Case("LPPool2d", (2, (2, 3)), {"ceil_mode": True}, inputs=((1, 2, 4, 4),), positive=True),
    Case("LPPool3d", (2, 2), inputs=((1, 1, 4, 4, 4),), positive=True),
    Case("MaxUnpool1d", (2,), inputs=((1, 2, 3), np.array([[[0, 3, 4], [1, 2, 5]]]))),
    Case(
        "MaxUnpool2d",
        (2,),
        inputs=((1, 1, 2, 2), np.array([[[[0, 3], [9, 12]]]])),
        call={"output_size": (4, 5)},
    ),
    Case("MaxUnpool3d", (2,), inputs=((1, 1, 1, 1), np.array([[[[5]]]]))),
]

PADS = [
    Case("ConstantPad1d", ((1, 2), 3.5), inputs=((2, 3, 4),)),
    Case("ConstantPad2d", (1, -1.0), inputs=((2, 3, 4, 4),)),
    Case("ConstantPad2d", ((1, -1, 0, 2), 0.5), inputs=((2, 3, 4, 4),)),
    Case("ConstantPad3d", (1, 0.0), inputs=((1, 2, 2, 2, 2),)),
    Case("ZeroPad1d", (2,), inputs=((2, 3, 4),)),
    Case("ZeroPad2d", ((1, 2, 0, 1),), inputs=((2, 3, 4, 4),)),
    Case("ZeroPad3d", (1,), inputs=((1, 2, 2, 2, 2),)),
    Case("ReflectionPad1d", ((2, 1),), inputs=((2, 3, 4),)),
    Case("ReflectionPad2d", ((1, 2, 3, 0),), inputs=((2, 3, 4, 4),)),
    Case("ReflectionPad3d", (1,), inputs=((1, 2, 2, 3, 2),)),
    Case("ReplicationPad1d", (3,), inputs=((2, 3, 4),)),
    Case("ReplicationPad2d", ((1, 2, 3, 0),), inputs=((3, 4, 4),)),
    Case("ReplicationPad3d", (1,), inputs=((1, 2, 2, 3, 2),)),
    Case("CircularPad1d", ((2, 1),), inputs=((2, 3, 4),)),
    Case("CircularPad2d", ((1, 2, 3, 0),), inputs=((2, 3, 4, 4),)),
    Case("CircularPad3d", (1,), inputs=((1, 2, 2, 3, 2),)),
]

NORMS = [
    Case("BatchNorm1d", (3,), inputs=((4, 3),)),
    Case("BatchNorm1d", (3,), inputs=((4, 3, 5),)),
    Case("BatchNorm1d", (3,), {"momentum": None}, inputs=((4, 3, 5),)),
    Case("BatchNorm1d", (3,), {"affine": False, "eps": 0.1}, inputs=((4, 3, 5),)),
    Case("BatchNorm2d", (3,), {"track_running_stats": False}, inputs=((2, 3, 2, 2),)),
    Case("BatchNorm2d", (3,), {"momentum": 0.3}, inputs=((2, 3, 2, 2),)),
    Case("BatchNorm3d", (2,), inputs=((2, 2, 2, 2, 2),)),
    Case("InstanceNorm1d", (3,), inputs=((2, 3, 4),)),
    Case("InstanceNorm1d", (3,), {"affine": True}, inputs=((3, 4),)),
    Case("InstanceNorm2d", (3,), {"affine": True, "track_running_stats": True}, inputs=((2, 3, 2, 3),)),
    Case("InstanceNorm2d", (3,), {"track_running_stats": True}, inputs=((3, 2, 3),)),
    Case("InstanceNorm3d", (2,), inputs=((1, 2, 2, 2, 2),)),
    Case("LayerNorm", (3,)),
    Case("LayerNorm", ((3, 4),), inputs=((2, 3, 4),)),
    Case("LayerNorm", (3,), {"elementwise_affine": False}),
    Case("LayerNorm", (3,), {"bias": False, "eps": 0.01}),
    Case("RMSNorm", (3,)),
    Case("RMSNorm", ((3, 4),), {"eps": 0.01}, inputs=((2, 3, 4),)),
    Case("RMSNorm", (3,), {"elementwise_affine": False}),
    Case("GroupNorm", (2, 4), inputs=((2, 4, 3),)),
    Case("GroupNorm", (4, 4), {"affine": False}, inputs=((2, 4),), tolerance=1e-7),
    Case("GroupNorm", (2, 4), {"bias": False}, inputs=((2, 4, 3),)),
    Case("BatchNorm1d", (3,), {"bias": False}, inputs=((4, 3),)),
    Case("GroupNorm", (1, 4), inputs=((2, 4, 2, 2),)),
    Case("LocalResponseNorm", (2,), inputs=((2, 4, 3),)),
    Case("LocalResponseNorm", (3, 0.5, 0.6, 2.0), inputs=((2, 4, 2, 2),)),
]

DROPOUTS = [
    Case("Dropout", (0.3,), train=False),
    Case("Dropout1d", (0.3,), inputs=((2, 3, 4),), train=False),
    Case("Dropout2d", (0.3,), inputs=((2, 3, 4, 4),), train=False),
    Case("Dropout3d", (0.3,), inputs=((1, 3, 2, 2, 2),), train=False),
    Case("AlphaDropout", (0.3,), train=False),
    Case("FeatureAlphaDropout", (0.3,), inputs=((2, 3, 4),), train=False),
]

_IDS = np.array([[1, 2, 4], [4, 0, 1]])
_FLAT = np.array([1, 2, 4, 4, 0, 1, 3])
_OFFSETS = np.array([0, 3, 3, 5])
EMBEDDINGS = [
    Case("Embedding", (5, 3), inputs=(_IDS,)),
    Case("Embedding", (5, 3), {"padding_idx": 1}, inputs=(_IDS,)),
    Case("Embedding", (5, 3), {"padding_idx": -1, "max_norm": 0.5}, inputs=(_IDS,), tolerance=1e-6),
    Case("Embedding", (5, 3), {"max_norm": 0.5, "norm_type": 1.0}, inputs=(_IDS,), tolerance=1e-6),
    Case("Embedding", (5, 3), {"scale_grad_by_freq": True}, inputs=(_IDS,)),
    Case("Embedding", (5, 3), inputs=(np.array(2),)),
    Case("EmbeddingBag", (5, 3), inputs=(_IDS,)),
    Case("EmbeddingBag", (5, 3), {"mode": "sum"}, inputs=(_FLAT, _OFFSETS)),
    Case("EmbeddingBag", (5, 3), {"mode": "mean"}, inputs=(_FLAT, _OFFSETS)),
    Case("EmbeddingBag", (5, 3), {"mode": "max"}, inputs=(_FLAT, _OFFSETS)),
    Case("EmbeddingBag", (5, 3), {"mode": "mean", "padding_idx": 4}, inputs=(_FLAT, _OFFSETS)),
    Case("EmbeddingBag", (5, 3), {"mode": "max", "padding_idx": 4}, inputs=(_FLAT, _OFFSETS)),
    Case("EmbeddingBag", (5, 3), {"mode": "sum", "include_last_offset": True}, inputs=(_FLAT, np.array([0, 3, 7]))),
    Case(
        "EmbeddingBag",
        (5, 3),
        {"mode": "sum"},
        inputs=(_IDS,),
        call={"per_sample_weights": np.array([[0.5, 1.0, 2.0], [-1.0, 0.3, 0.2]])},
    ),
]

RESIZES = [
    Case("PixelShuffle", (2,), inputs=((1, 8, 2, 3),)),
    Case("PixelUnshuffle", (2,), inputs=((1, 2, 4, 6),)),
    Case("ChannelShuffle", (2,), inputs=((1, 4, 2, 2),)),
    Case("Upsample", (), {"scale_factor": 2}, inputs=((1, 2, 3),)),
    Case("Upsample", (), {"size": (5, 7)}, inputs=((1, 2, 3, 4),)),
    Case("Upsample", (), {"scale_factor": 2.5, "mode": "bilinear"}, inputs=((1, 2, 3, 4),)),
    Case("Upsample", (), {"size": 7, "mode": "linear", "align_corners": True}, inputs=((1, 2, 3),)),
    Case("Upsample", (), {"scale_factor": (2, 1.5), "mode": "bicubic"}, inputs=((1, 2, 4, 4),)),
    Case("Upsample", (), {"size": (6, 3), "mode": "bicubic", "align_corners": True}, inputs=((1, 2, 4, 4),)),
    Case("Upsample", (), {"size": (3, 2, 4), "mode": "trilinear"}, inputs=((1, 1, 2, 3, 2),)),
    Case("UpsamplingNearest2d", (), {"scale_factor": 3}, inputs=((1, 2, 2, 2),)),
    Case("UpsamplingBilinear2d", (), {"size": (5, 5)}, inputs=((1, 2, 3, 3),)),
]

_MASK = np.array([[False, True, True], [False, False, True], [False, False, False]])
_PAD = np.array([[False, False, True], [False, False, False]])
ATTENTION = [
    Case("MultiheadAttention", (4, 2), inputs=((3, 2, 4),) * 3),
    Case("MultiheadAttention", (4, 2), {"batch_first": True, "bias": False}, inputs=((2, 3, 4),) * 3),
    Case(
        "MultiheadAttention", (4, 2), inputs=((3, 2, 4),) * 3, call={"attn_mask": _MASK, "key_padding_mask": _PAD}
    ),
    Case("MultiheadAttention", (4, 2), {"kdim": 3, "vdim": 5}, inputs=((3, 2, 4), (6, 2, 3), (6, 2, 5))),
    Case(
        "MultiheadAttention",
        (4, 2),
        {"add_bias_kv": True, "add_zero_attn": True},
        inputs=((3, 2, 4),) * 3,
        call={"average_attn_weights": False, "attn_mask": np.where(_MASK, -0.5, 0.1)},
    ),
    Case("MultiheadAttention", (4, 2), inputs=((3, 4),) * 3, call={"need_weights": False}),
    Case("TransformerEncoderLayer", (4, 2, 6, 0.0), inputs=((3, 2, 4),)),
    Case(
        "TransformerEncoderLayer",
        (4, 2, 6, 0.0, "gelu"),
        {"norm_first": True, "batch_first": True},
        inputs=((2, 3, 4),),
        call={"src_mask": _MASK, "src_key_padding_mask": _PAD},
    ),
    Case("TransformerDecoderLayer", (4, 2, 6, 0.0), inputs=((3, 2, 4), (5, 2, 4)), call={"tgt_mask": _MASK}),
    Case("TransformerDecoderLayer", (4, 2, 6, 0.0), {"norm_first": True}, inputs=((3, 2, 4), (5, 2, 4))),
    Case("Transformer", (4, 2, 1, 2, 6, 0.0), inputs=((5, 2, 4), (3, 2, 4)), call={"tgt_mask": _MASK}),
]

_RNN = {"num_layers": 2, "bidirectional": True}
RECURRENT = [
    Case("RNN", (3, 4), inputs=((5, 2, 3),)),
    Case("RNN", (3, 4), {"nonlinearity": "relu", "batch_first": True, **_RNN}, inputs=((2, 5, 3),)),
    Case("LSTM", (3, 4), inputs=((5, 3),)),
    Case("LSTM", (3, 4), {**_RNN, "batch_first": True}, inputs=((2, 5, 3),)),
    Case("LSTM", (3, 4), {"proj_size": 2, **_RNN}, inputs=((5, 2, 3),)),
    Case("LSTM", (3, 4), {"bias": False}, inputs=((5, 2, 3), (np.ones((1, 2, 4)), np.ones((1, 2, 4)) * 0.5))),
    Case("GRU", (3, 4), inputs=((5, 2, 3), (1, 2, 4))),
    Case("GRU", (3, 4), _RNN, inputs=((5, 2, 3),)),
    Case("RNNCell", (3, 4), inputs=((2, 3), (2, 4))),
    Case("RNNCell", (3, 4), {"nonlinearity": "relu"}, inputs=((3,),)),
    Case("LSTMCell", (3, 4), inputs=((2, 3),)),
    Case("LSTMCell", (3, 4), {"bias": False}, inputs=((2, 3), (np.ones((2, 4)), np.ones((2, 4)) * 0.5))),
    Case("GRUCell", (3, 4), inputs=((2, 3), (2, 4))),
]

LAYERS = [
    *ACTIVATIONS, *LINEAR, *CONVOLUTIONS, *POOLS, *PADS, *NORMS, *DROPOUTS, *EMBEDDINGS, *RESIZES, *ATTENTION,
    *RECURRENT,
]  # fmt: skip

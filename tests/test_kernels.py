import numpy as np
import pandas as pd
import pytest

from edgeutils import EdgeError
from edgeutils.networks.kernels import KERNEL_TYPES, WORK, Kernel, add_work, kernel_frame

CONV = {"hw": 224, "cin": 3, "cout": 32, "kernel_size": 3, "stride": 2}

# type, configuration, MACs, parameters, elements read, elements written; counted by hand.
COUNTED = [
    ("conv-bn-relu", CONV, 112 * 112 * 27 * 32, 27 * 32 + 32, 224 * 224 * 3, 112 * 112 * 32),
    ("conv-bn-relu", CONV | {"hw": 13}, 7 * 7 * 27 * 32, 896, 169 * 3, 49 * 32),
    ("conv-bn-relu", CONV | {"padding": 0}, 111 * 111 * 864, 896, 224 * 224 * 3, 111 * 111 * 32),
    (
        "conv-bn-relu",
        {"hw": 28, "cin": 64, "cout": 64, "kernel_size": 3, "stride": 1}
        | {"groups": 4, "padding": 2, "dilation": 2},
        28 * 28 * 9 * 16 * 64,
        9 * 16 * 64 + 64,
        28 * 28 * 64,
        28 * 28 * 64,
    ),
    (
        "dwconv-bn-relu",
        {"hw": 112, "cin": 96, "kernel_size": 3, "stride": 2},
        56 * 56 * 9 * 96,
        9 * 96 + 96,
        112 * 112 * 96,
        56 * 56 * 96,
    ),
    (
        "transpose-conv",
        {"hw": 7, "cin": 8, "cout": 4, "kernel_size": 3, "stride": 2},
        49 * 9 * 32,
        9 * 32 + 4,
        49 * 8,
        196 * 4,
    ),
    ("fc", {"cin": 1024, "cout": 1000}, 1024000, 1025000, 1024, 1000),
    ("se", {"hw": 7, "cin": 64}, 2 * 64 * 16, 2 * 64 * 16 + 80, 49 * 64, 49 * 64),
    ("se", {"hw": 7, "cin": 64, "cout": 24}, 2 * 64 * 24, 2 * 64 * 24 + 88, 49 * 64, 49 * 64),
    ("bn", {"hw": 7, "cin": 64}, 0, 128, 49 * 64, 49 * 64),
    ("relu", {"hw": 7, "cin": 64}, 0, 0, 49 * 64, 49 * 64),
    ("add", {"hw": 7, "cin": 64}, 0, 0, 2 * 49 * 64, 49 * 64),
    ("addrelu", {"hw": 7, "cin1": 64, "cin2": 1}, 0, 0, 49 * 65, 49 * 64),
    ("concat", {"hw": 7, "cin1": 22, "cin2": 5, "cin3": 0, "cin4": 0}, 0, 0, 49 * 27, 49 * 27),
    ("maxpool", {"hw": 7, "cin": 8, "kernel_size": 3, "stride": 2}, 0, 0, 49 * 8, 16 * 8),
    ("global-avgpool", {"hw": 7, "cin": 64}, 0, 0, 49 * 64, 64),
]


@pytest.mark.parametrize(("kind", "config", "macs", "params", "read", "written"), COUNTED)
def test_work_counted_by_hand(kind, config, macs, params, read, written):  # noqa: PLR0917
    kernel = Kernel(kind, **config)
    assert (kernel.macs, kernel.params) == (macs, params)
    assert (kernel.input_bytes, kernel.output_bytes) == (4 * read, 4 * written)
    assert kernel.weight_bytes == 4 * params


def test_table_and_kernel_agree_on_every_row():
    kernels = tuple(Kernel(kind, **config) for kind, config, *_ in COUNTED)
    frame = kernel_frame(kernels)
    for name in WORK:
        assert frame[name].tolist() == [getattr(k, name) for k in kernels]


def test_quantised_weights_are_bytes_and_biases_are_int32():
    kernel = Kernel("fc", cin=10, cout=5, dtype="int8")
    assert (kernel.input_bytes, kernel.output_bytes, kernel.weight_bytes) == (10, 5, 50 + 4 * 5)


def test_rows_without_kernel_or_dtype_stay_missing_and_given_values_stay():
    table = pd.DataFrame(
        {
            "kernel_type": ["fc", None, "fc", "conv-bn-relu"],
            "cin": pd.array([8, 8, 8, 8], dtype="Int64"),
            "cout": pd.array([4, 4, 4, None], dtype="Int64"),
            "dtype": ["float32", "float32", None, "float32"],
            "macs": [np.nan, 7.0, 99.0, np.nan],
        }
    )
    work = add_work(table)
    assert work["macs"].fillna(-1).tolist() == [32, 7, 99, -1]
    assert work["weight_bytes"].fillna(-1).tolist() == [144, -1, -1, -1]
    assert "params" not in table


def test_the_papers_sixteen_types_are_known():
    assert len(set(KERNEL_TYPES) - {"transpose-conv"}) == 16


def test_unknown_type_lists_the_valid_ones():
    with pytest.raises(EdgeError, match="unknown kernel type conv; use one of: conv-bn-relu, dw"):
        Kernel("conv")
    with pytest.raises(EdgeError, match="unknown kernel type softmax"):
        add_work(pd.DataFrame({"kernel_type": ["softmax"]}))
    with pytest.raises(EdgeError, match="expected a column kernel_type"):
        add_work(pd.DataFrame({"cin": [1]}))


def test_missing_configuration_and_dtype_are_named():
    with pytest.raises(EdgeError, match="a conv-bn-relu kernel needs cout, stride"):
        Kernel("conv-bn-relu", hw=7, cin=8, kernel_size=3)
    with pytest.raises(EdgeError, match="unknown dtype 'float'; use one of: float32"):
        Kernel("relu", hw=7, cin=8, dtype="float")

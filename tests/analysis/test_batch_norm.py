"""Shifts of batch norms, each quantity on its own."""

import jax
import numpy as np
import pytest

from jaxft.analysis.batch_norm import batch_norm_shifts, rms_shifts

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("kind", ["flax", "haiku", "torch"])
def test_batch_norm_shifts_of_each_quantity(kind):
    def variables(scale, bias, mean, var):
        arrays = [np.full(2, x, np.float32) for x in (scale, bias, mean, var)]
        if kind == "flax":
            params, stats = (
                {"scale": arrays[0], "bias": arrays[1]},
                {"mean": arrays[2], "var": arrays[3]},
            )
            return {"params": {"bn": params, "fc": {"bias": arrays[1]}}, "batch_stats": {"bn": stats}}
        if kind == "haiku":
            state = {"bn/~/mean_ema": {"average": arrays[2]}, "bn/~/var_ema": {"average": arrays[3]}}
            return {"params": {"bn": {"scale": arrays[0], "offset": arrays[1]}}, "state": state}
        names = "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"
        return dict(zip(names, arrays)) | {"fc.bias": arrays[1], "bn.num_batches_tracked": np.array(3)}

    shifts = batch_norm_shifts(variables(1, 0, 2, 4), variables(1.5, -1, 5, 8))
    assert list(shifts) == ["bn"] and list(shifts["bn"]) == ["scale", "bias", "mean", "log_variance"]
    for quantity, expected in {"scale": 0.5, "bias": -1, "mean": 3, "log_variance": np.log(2)}.items():
        np.testing.assert_allclose(shifts["bn"][quantity], [expected] * 2, rtol=1e-6)
    assert rms_shifts(shifts)["bn"]["bias"] == 1
    runs = jax.tree.map(lambda x: np.stack([x, x, x]), variables(1.5, -1, 5, 8))
    many = batch_norm_shifts(variables(1, 0, 2, 4), runs)
    assert many["bn"]["mean"].shape == (3, 2) and rms_shifts(many)["bn"]["mean"].tolist() == [3, 3, 3]
    bad = batch_norm_shifts(variables(1, 0, 2, 4), variables(1, 0, 2, -1))
    assert np.isnan(bad["bn"]["log_variance"]).all()

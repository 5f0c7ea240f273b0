"""Analysis of variance and mixed models against statsmodels, NumPy and numbers worked out by hand."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from jaxft.analysis.statistics import RESIDUAL, anova, mixed_model
from jaxft.core.errors import UserError


def grid(num_a, num_b, num_seeds, seed=0):
    """Returns a balanced table of noise, with factors a and b and the column seed."""
    rows = list(itertools.product(range(num_a), range(num_b), range(num_seeds)))
    table = pd.DataFrame(rows, columns=["a", "b", "seed"])
    return table.assign(y=np.random.default_rng(seed).normal(size=len(table)))


def test_two_factors_by_hand():
    table = pd.DataFrame(
        {
            "a": [1, 1, 1, 1, 2, 2, 2, 2],
            "b": ["x", "x", "z", "z", "x", "x", "z", "z"],
            "y": [1.0, 3.0, 5.0, 7.0, 2.0, 4.0, 10.0, 12.0],
        }
    )
    effects = anova(table, "y", ["a", "b"])
    # Grand mean 5.5; means of a 4 and 7, of b 2.5 and 8.5, of the cells 2, 6, 3 and 11; each cell varies by 1 around
    # its mean. SS: 8 * 1.5^2, 8 * 3^2, 8 * 1^2 and 8 * 1^2.
    assert effects.index.tolist() == ["a", "b", "a × b", RESIDUAL]
    np.testing.assert_allclose(effects["sum_sq"], [18, 72, 8, 8], rtol=1e-12)
    assert effects["df"].tolist() == [1, 1, 1, 4]
    np.testing.assert_allclose(effects["F"], [9, 36, 4, np.nan], rtol=1e-12)
    # F(1, 4) is the square of t(4).
    np.testing.assert_allclose(effects["p"][:3], 2 * stats.t.sf([3, 6, 2], 4), rtol=1e-12)
    np.testing.assert_allclose(effects["eta_sq"], np.array([18, 72, 8, 8]) / 106, rtol=1e-12)
    np.testing.assert_allclose(effects["partial_eta_sq"][:3], [18 / 26, 72 / 80, 8 / 16], rtol=1e-12)
    np.testing.assert_allclose(effects["omega_sq"][:3], np.array([16, 70, 6]) / 108, rtol=1e-12)


def test_an_unbalanced_design_agrees_with_statsmodels():
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    table = grid(3, 2, 5).drop(index=[0, 7, 8, 22]).assign(c=lambda rows: np.arange(len(rows)) % 2)
    table["y"] += 0.5 * table["a"] + table["a"] * table["b"] + 0.3 * table["seed"]
    effects = anova(table, "y", ["a", "b", "c"], block="seed")
    fit = ols("y ~ C(seed) + C(a) + C(b) + C(c) + C(a):C(b) + C(a):C(c) + C(b):C(c)", table).fit()
    expected = anova_lm(fit, typ=2)
    for ours, column in (("sum_sq", "sum_sq"), ("df", "df"), ("F", "F"), ("p", "PR(>F)")):
        np.testing.assert_allclose(effects[ours], expected[column], rtol=1e-9)


def residual_by_lstsq(y, *codes):
    """Returns the residual sum of squares and the rank of a model with an indicator for each level of each code."""
    design = np.column_stack([np.ones(len(y)), *(code[:, None] == np.unique(code) for code in codes)]).astype(float)
    solution, _, rank, _ = np.linalg.lstsq(design, y)
    return np.square(y - design @ solution).sum(), rank


def test_a_missing_combination_costs_a_degree_of_freedom():
    table = grid(2, 5, 4)
    table = table[~((table["a"] == 1) & (table["b"] == 0))]
    effects = anova(table, "y", ["a", "b"], block="seed")
    assert effects["df"].to_dict() == {"seed": 3, "a": 1, "b": 4, "a × b": 3, RESIDUAL: 24}
    y, a, b, s = (table[name].to_numpy() for name in ("y", "a", "b", "seed"))
    full, additive = residual_by_lstsq(y, s, 10 * a + b), residual_by_lstsq(y, s, a, b)
    without_a, without_b = residual_by_lstsq(y, s, b), residual_by_lstsq(y, s, a)
    expected = [without_a[0] - additive[0], without_b[0] - additive[0], additive[0] - full[0], full[0]]
    np.testing.assert_allclose(effects["sum_sq"].iloc[1:], expected, rtol=1e-10)
    assert len(y) - full[1] == 24


def test_shares_of_a_balanced_design_sum_to_one():
    effects = anova(grid(3, 4, 3), "y", ["a", "b"], block="seed")
    assert effects["eta_sq"].sum() == pytest.approx(1)
    assert (effects["omega_sq"].dropna() >= 0).all() and (effects["omega_sq"] <= effects["eta_sq"]).iloc[:-1].all()


def test_a_factor_without_effect_has_f_near_one():
    noise = [anova(grid(2, 3, 4, seed), "y", ["b"], block="seed").loc["b"] for seed in range(40)]
    # F(2, 18) has the mean 18 / 16 and the standard deviation 1.28, so the mean of 40 has 0.20.
    assert np.mean([row["F"] for row in noise]) == pytest.approx(18 / 16, abs=3 * 0.20)
    assert stats.kstest([row["p"] for row in noise], "uniform").pvalue > 0.01
    assert np.mean([row["omega_sq"] for row in noise]) < np.mean([row["eta_sq"] for row in noise])


def test_the_block_removes_the_variance_of_seeds():
    table = grid(2, 2, 6)
    table["y"] += 1.5 * table["a"] + 10 * table["seed"]
    assert anova(table, "y", ["a", "b"]).loc["a", "p"] > 0.5
    assert anova(table, "y", ["a", "b"], block="seed").loc["a", "p"] < 0.1


def test_levels_can_be_of_any_type():
    levels = ["frozen", 0.1, None, (1, 2)]
    table = grid(4, 2, 3)
    named = table.assign(a=[levels[i] for i in table["a"]])
    np.testing.assert_array_equal(anova(named, "y", ["a", "b"]), anova(table, "y", ["a", "b"]))


def test_values_that_are_not_finite_are_left_out():
    table = grid(2, 3, 4)
    table.loc[[3, 10], "y"] = [math.nan, math.inf]
    np.testing.assert_array_equal(anova(table, "y", ["a", "b"]), anova(table.drop(index=[3, 10]), "y", ["a", "b"]))


def test_interactions_that_cannot_be_estimated_are_left_out():
    table = grid(2, 2, 3)
    corners = table[(table["a"] == 0) | (table["b"] == 0)]
    assert anova(corners, "y", ["a", "b"]).index.tolist() == ["a", "b", RESIDUAL]
    assert anova(table, "y", ["a", "b"], interactions=False).index.tolist() == ["a", "b", RESIDUAL]
    confounded = anova(table.assign(b=table["a"]), "y", ["a", "b"])
    assert confounded["df"].tolist() == [0, 0, 10] and confounded["F"].isna().all() and confounded["p"].isna().all()


def test_effects_without_residual_variance_are_certain():
    table = grid(2, 2, 3).assign(y=lambda rows: rows["a"] + 0.0)
    effects = anova(table, "y", ["a", "b"])
    assert effects.loc["a", "F"] == math.inf and effects.loc["a", "p"] == 0 and effects.loc["a", "eta_sq"] == 1
    assert effects.loc["b", "sum_sq"] == 0 and effects.loc[RESIDUAL, "sum_sq"] == 0


@pytest.mark.parametrize("analyze", [anova, mixed_model])
def test_bad_tables_are_one_sentence(analyze):
    table = grid(2, 2, 3)
    with pytest.raises(UserError, match=r"no column 'bb' \(did you mean 'b'\?\)|no column 'bb'"):
        analyze(table, "y", ["bb"], "seed")
    with pytest.raises(UserError, match="b must have at least two levels among the 6 values"):
        analyze(table[table["b"] == 0], "y", ["a", "b"], "seed")
    with pytest.raises(UserError, match="seed must have at least two levels"):
        analyze(table[table["seed"] == 0], "y", ["a", "b"], "seed")
    with pytest.raises(UserError, match=r"'y' is 0\.5 in all 12 rows, so it has no variance"):
        analyze(table.assign(y=0.5), "y", ["a", "b"], "seed")
    with pytest.raises(UserError, match="at least two levels among the 0 values"):
        analyze(table.assign(y=math.nan), "y", ["a"], "seed")


def test_a_design_without_residual_is_one_sentence():
    with pytest.raises(UserError, match="no residual variance: 4 values for 3 effects; run more seeds"):
        anova(grid(2, 2, 1), "y", ["a", "b"])


def test_a_balanced_mixed_model_has_the_mean_squares_of_the_anova():
    table = grid(2, 3, 8)
    table["y"] = 0.01 * (table["y"] + 2 * table["a"] + 1.5 * np.random.default_rng(5).normal(size=8)[table["seed"]])
    effects = anova(table, "y", ["a", "b"], block="seed", interactions=False)
    mean_sq = effects["sum_sq"] / effects["df"]
    model = mixed_model(table, "y", ["a", "b"])
    assert model.converged
    assert model.residual_sd**2 == pytest.approx(mean_sq[RESIDUAL], rel=1e-4)
    assert model.group_sd**2 == pytest.approx((mean_sq["seed"] - mean_sq[RESIDUAL]) / 6, rel=1e-3)
    # The Wald statistic is df F, and the chi-square distribution has smaller tails than F.
    np.testing.assert_allclose(model.tests["chi_sq"], (effects["df"] * effects["F"])[["a", "b"]], rtol=1e-3)
    assert (model.tests["p"].to_numpy() < effects["p"][["a", "b"]].to_numpy()).all()
    assert model.tests["df"].tolist() == [1, 2]


@pytest.mark.parametrize("seed", range(8))
def test_small_variances_of_seeds_are_those_of_the_closed_form(seed):
    """Gradient methods stop early where the variance of the seeds is almost 0."""
    table, rng = grid(2, 2, 6), np.random.default_rng(seed)
    table["y"] = rng.normal(size=len(table)) + 0.3 * rng.normal(size=6)[table["seed"]]
    effects = anova(table, "y", ["a", "b"], block="seed", interactions=False)
    mean_sq = effects["sum_sq"] / effects["df"]
    expected = max((mean_sq["seed"] - mean_sq[RESIDUAL]) / 4, 0)
    assert mixed_model(table, "y", ["a", "b"]).group_sd ** 2 == pytest.approx(expected, rel=1e-2, abs=2e-3)


def test_a_mixed_model_without_variance_of_seeds():
    table = grid(2, 2, 5)
    table["y"] -= table.groupby("seed")["y"].transform("mean")
    assert mixed_model(table, "y", ["a", "b"]).group_sd == pytest.approx(0, abs=0.05)  # the residual is 1


def test_mixed_models_that_cannot_be_fitted_are_one_sentence():
    table = grid(2, 2, 3)
    with pytest.raises(UserError, match="the levels of a, b cannot be separated"):
        mixed_model(table.assign(b=table["a"]), "y", ["a", "b"])
    with pytest.raises(UserError, match="explain all variance of 'y'"):
        mixed_model(table.assign(y=table["a"] + 0.0), "y", ["a", "b"])


def test_without_statsmodels_one_sentence_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for analyze, purpose in ((anova, "an analysis of variance"), (mixed_model, "a mixed model")):
        with pytest.raises(UserError, match=rf"{purpose} needs statsmodels; `pip install 'jaxft\[statistics\]'`"):
            analyze(grid(2, 2, 2), "y", ["a"], "seed")

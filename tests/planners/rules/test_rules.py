"""The planner's rules, each by a table of cases worked out by hand from documentation/plans.md."""

import math

import numpy as np
import pytest

from ldseg_auto.errors import InputError
from ldseg_auto.planners.method import AUTO, Method
from ldseg_auto.planners.rules.aim import aim, why
from ldseg_auto.planners.rules.latent import candidate_factors, choose_latent
from ldseg_auto.planners.rules.lowres import low_resolution
from ldseg_auto.planners.rules.memory import Demand, training_demand
from ldseg_auto.planners.rules.normalisation import normalisation
from ldseg_auto.planners.rules.patch import choose_patch, ideal_patch
from ldseg_auto.planners.rules.spacing import target_grid, transposition
from ldseg_auto.planners.rules.steps import MAX_STEPS, retained, sampling_steps
from ldseg_auto.planners.rules.topology import topology


class TestSpacing:
    def test_isotropic_takes_the_median(self) -> None:
        grid = target_grid([(1, 1, 1), (2, 1, 1), (3, 1, 1)], [(60, 60, 60)] * 3)
        assert grid.spacing == (2, 1, 1)
        assert grid.median_shape == (60, 60, 60)

    def test_coarse_axis_with_few_slices_takes_the_tenth_percentile(self) -> None:
        spacings = [(s, 1.0, 1.0) for s in (4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)]
        grid = target_grid(spacings, [(20, 200, 200)] * 11)
        assert grid.spacing == (5.0, 1.0, 1.0)  # the second of eleven
        assert "coarse" in grid.reason

    def test_coarse_axis_with_many_slices_keeps_the_median(self) -> None:
        spacings = [(s, 1.0, 1.0) for s in (4, 5, 6)]
        assert target_grid(spacings, [(100, 200, 200)] * 3).spacing[0] == 5

    def test_percentile_is_never_finer_than_the_other_axes(self) -> None:
        spacings = [(0.5, 1.0, 1.0)] * 3 + [(8.0, 1.0, 1.0)] * 7
        assert target_grid(spacings, [(20, 200, 200)] * 10).spacing[0] == pytest.approx(1.0 + 1e-5)

    def test_given_spacing_replaces_the_rule(self) -> None:
        spacings, shapes = [(2, 1, 1), (2.5, 1, 1)], [(20, 100, 80)] * 2
        plane = target_grid(spacings, shapes, (2, 2))
        assert plane.spacing == (2.25, 2, 2) and plane.median_shape[1:] == (50, 40) and "--target-spacing; z: median" in plane.reason
        assert target_grid(spacings, shapes, (6, 0.5, 1)).spacing == (6, 0.5, 1)

    @pytest.mark.parametrize("given", [(1,), (1, 2, 3, 4), (0, 1, 1), (1, -1), (float("nan"), 1)])
    def test_impossible_given_spacing(self, given: tuple) -> None:
        with pytest.raises(InputError, match="--target-spacing .*: expected three numbers"):
            target_grid([(1, 1, 1)], [(9, 9, 9)], given)

    @pytest.mark.parametrize(
        ("spacing", "shape", "order"),
        [
            ((5, 1, 1), (20, 100, 100), (0, 1, 2)),
            ((1, 5, 1), (100, 20, 100), (1, 0, 2)),
            ((1, 1, 5), (100, 100, 20), (2, 0, 1)),
            ((1, 1, 1), (50, 50, 50), (0, 1, 2)),
            ((9, 1, 1), (30, 100, 1), (2, 0, 1)),  # a single slice goes first whatever its spacing
        ],
    )
    def test_transposition(self, spacing: tuple, shape: tuple, order: tuple) -> None:
        assert transposition(spacing, shape)[0] == order


class TestNormalisation:
    def test_by_channel_name_and_crop(self) -> None:
        schemes, mask, _ = normalisation(["CT", "T1", "noNorm", "rgb_to_0_1"], 0.5)
        assert schemes == ("ct", "zscore", "none", "rgb_to_0_1")
        assert mask == (False, True, False, False)

    def test_no_mask_where_little_is_cropped(self) -> None:
        assert normalisation(["T1"], 0.75)[1] == (False,)


class TestTopology:
    # nnU-Net 2.8.1's plans for known datasets: Hippocampus, a 2D picture, and an anisotropic prostate MR
    @pytest.mark.parametrize(
        ("spacing", "patch", "padded", "strides", "kernels"),
        [
            ((1, 1, 1), (36, 50, 35), (40, 56, 40), [(1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)], [(3, 3, 3)] * 4),
            ((1, 1), (56, 40), (56, 40), [(1, 1), (2, 2), (2, 2), (2, 2)], [(3, 3)] * 4),
            (
                (3.6, 0.625, 0.625), (20, 320, 256), (20, 320, 256),
                [(1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2)],
                [(1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)],
            ),
        ],
    )  # fmt: skip
    def test_table(self, spacing: tuple, patch: tuple, padded: tuple, strides: list, kernels: list) -> None:
        found = topology(spacing, patch)
        assert found.patch_size == padded
        assert list(found.strides) == strides
        assert list(found.kernel_sizes) == kernels

    def test_patch_is_a_multiple_of_the_total_stride_and_the_coarsest_grid_is_four_or_more(self) -> None:
        for patch in ((33, 70, 128), (8, 8, 8), (17, 200, 31), (128, 128, 128)):
            found = topology((1.0, 1.0, 1.0), patch)
            assert all(p % t == 0 and p >= q for p, t, q in zip(found.patch_size, found.total_stride, patch, strict=True))
            assert all(p // t >= 4 for p, t in zip(found.patch_size, found.total_stride, strict=True) if t > 1)


class TestPatch:
    def test_ideal_is_a_cube_in_millimetres(self) -> None:
        patch = ideal_patch((4, 1, 1), (1e6, 1e6, 1e6))
        assert math.prod(patch) == pytest.approx(256**3, rel=0.01)
        assert patch[0] * 4 == pytest.approx(patch[1], rel=0.02)

    def test_reason_does_not_claim_more_than_is_so(self) -> None:
        whole = choose_patch((1, 1, 1), (40, 40, 40), 1e9, lambda t: Demand(0, 1.0), 8)
        clipped = choose_patch((1, 1, 1), (900, 900, 900), 1e12, lambda t: Demand(0, 1.0), 8)
        shrunk = choose_patch((1, 1, 1), (900, 900, 900), 1e12, lambda t: Demand(0, 100.0 * math.prod(t.patch_size)), 1)
        assert whole.patch_reason.startswith("the median shape fits whole")
        assert clipped.patch_reason.startswith("the largest considered, 256 x 256 x 256 before padding, fits")
        assert shrunk.patch_reason.startswith("shrunk from 256 x 256 x 256 to fit 1 GiB")

    def test_small_images_are_taken_whole_and_the_batch_covers_a_twentieth_of_the_dataset(self) -> None:
        found = choose_patch((1, 1, 1), (36, 50, 35), 200 * 63000, lambda t: Demand(0, 1e6), 8)
        assert found.topology.patch_size == (40, 56, 40)
        assert found.batch_size == round(0.05 * 200 * 63000 / 89600)

    def test_shrinks_until_two_samples_fit(self) -> None:
        def demand(t):  # 100 bytes a voxel
            return Demand(0, 100.0 * math.prod(t.patch_size))

        found = choose_patch((1, 1, 1), (300, 300, 300), 1e12, demand, 1)
        voxels = math.prod(found.topology.patch_size)
        assert 2 * 100 * voxels <= 2**30
        assert found.batch_size == int(2**30 // (100 * voxels))
        assert 2 * 100 * voxels > 0.4 * 2**30  # and no further than needed

    def test_minimum_is_named_where_nothing_fits(self) -> None:
        with pytest.raises(InputError, match=r"--gpu-memory 1: the smallest patch .* needs 5\.\d GiB"):
            choose_patch((1, 1), (64, 64), 1e9, lambda t: Demand(5 * 2**30, 1e6), 1)


class TestMemory:
    def test_grows_with_patch_and_batch(self) -> None:
        from ldseg_auto.planners.planner import network_of

        small, large = topology((1, 1, 1), (32, 32, 32)), topology((1, 1, 1), (64, 64, 64))
        demand = [training_demand(network_of(t), t.patch_size, 3, 1, 2, 16) for t in (small, large)]
        assert demand[1].per_sample > 7 * demand[0].per_sample  # eight times the voxels
        assert demand[0].gib(4) - demand[0].gib(3) == pytest.approx(demand[0].per_sample / 2**30)
        assert demand[0].largest_batch(demand[0].gib(5) + 1e-6) == 5


class TestLowResolution:
    def test_none_where_the_patch_sees_enough(self) -> None:
        assert low_resolution((1, 1, 1), (100, 100, 100), 64**3 * 2, lambda s, m: 0) is None

    def test_grows_until_a_quarter_is_seen(self) -> None:
        found = low_resolution((1, 1, 1), (512, 512, 512), 128**3, lambda s, m: 128**3)
        assert found is not None
        spacing, shape = found
        assert 128**3 / math.prod(shape) >= 0.25
        assert spacing[0] == pytest.approx(1.03 ** round(math.log(spacing[0], 1.03)))

    def test_coarse_axis_waits_for_the_others(self) -> None:
        found = low_resolution((5, 1, 1), (100, 500, 500), 64**3, lambda s, m: 64**3)
        assert found is not None
        assert found[0][1] > 1.5 and found[0][0] < 5 * found[0][1]


class TestLatent:
    def test_candidates(self) -> None:
        strides = [(1, 2, 2), (1, 4, 4), (2, 8, 8), (4, 16, 16), (8, 32, 32)]
        assert candidate_factors(strides) == [(1, 4, 4), (2, 8, 8), (4, 16, 16)]
        assert candidate_factors([(2, 2)]) == [(2, 2)]

    def test_smallest_that_reaches_the_target_in_its_worst_class(self) -> None:
        curves = {
            (4, 4): {1: {"a": 0.995, "b": 0.98}, 2: {"a": 0.999, "b": 0.991}},
            (8, 8): {4: {"a": 0.99, "b": 0.992}, 8: {"a": 1.0, "b": 1.0}},
        }
        found = choose_latent(curves)
        assert (found.factor, found.channels, found.ceiling) == ((8, 8), 4, 0.99)  # 1/16 number per voxel against 1/8
        assert found.warning == ""

    def test_best_reachable_warns_and_names_the_class(self) -> None:
        found = choose_latent({(4, 4): {1: {"a": 0.9, "tiny": 0.2}, 2: {"a": 0.99, "tiny": 0.6}}})
        assert found.channels == 2
        assert "tiny" in found.warning and "0.600" in found.warning


class TestAim:
    def test_one_rater_trains_the_best_mask(self) -> None:
        assert aim(1) == {} and AUTO["diversity"] == 0 and "one rater" in why(1)

    @pytest.mark.parametrize("raters", [2, 4])
    def test_several_raters_train_their_distribution(self, raters: int) -> None:
        assert why(raters).startswith(f"{raters} raters") and set(aim(raters)) <= set(AUTO)
        parts = Method().resolved("auto", raters)
        assert parts.diversity == 1 and parts.recycling == 0  # the score that their distribution is best at, and no distrust of draws
        assert parts.pure_noise > 0  # the samples that the energy score takes
        assert parts.skip_noise > 0 and parts.stop_gradient and parts.prediction == "z0"


class TestSteps:
    # ../shared/science.md, section 4: share retained by DDIM on a Gaussian mode, cosine schedule
    @pytest.mark.parametrize(
        ("variance", "shares"),
        [
            (4, {1: 0.00, 2: 0.41, 3: 0.58, 4: 0.67, 6: 0.77, 8: 0.82, 12: 0.88, 16: 0.91, 32: 0.95}),
            (1, {1: 0.00, 2: 0.50, 3: 0.65, 4: 0.73, 6: 0.81, 8: 0.86, 12: 0.90, 16: 0.93, 32: 0.96}),
            (0.25, {1: 0.00, 2: 0.40, 3: 0.57, 4: 0.66, 6: 0.77, 8: 0.82, 12: 0.88, 16: 0.91, 32: 0.95}),
            (0.05, {1: 0.00, 2: 0.21, 3: 0.34, 4: 0.44, 6: 0.59, 8: 0.67, 12: 0.77, 16: 0.82, 32: 0.91}),
        ],
    )
    def test_table(self, variance: float, shares: dict) -> None:
        for steps, share in shares.items():
            # the table's rows differ from the formula by up to 0.014 (found by two of us; its v = 1 row is exact)
            assert float(retained(np.array([variance]), steps)[0]) == pytest.approx(share, abs=0.015)

    def test_fewest_that_reach_the_target(self) -> None:
        assert sampling_steps([(1.0, 1.0)], target=0.85)[0] == 8
        assert sampling_steps([(1.0, 1.0)], target=0.86)[0] > 8

    def test_constant_labels_need_one_step(self) -> None:
        assert sampling_steps([])[0] == 1

    def test_out_of_reach_takes_the_most_allowed(self) -> None:
        steps, reason = sampling_steps([(1e6, 1.0)])
        assert steps == MAX_STEPS and "out of reach" in reason

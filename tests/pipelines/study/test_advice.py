"""What the results of a study say beside its verdict."""

from __future__ import annotations

from guided_diffusion.pipelines.study.advice import better_painted, cheaper_ways, several_versions, signs_of_hurt


def test_hurtful_augmentation_is_a_warning():
    def arms(kind: str | None) -> dict:
        return {"real_good": {}, "unaugmented": {} if kind is None else {"difference": {"kind": kind}}}

    for kind in ("hurts", "cannot tell", None):
        assert signs_of_hurt({"fpn": {"20": arms(kind), "all": {"real_good": {}}}}, 1500) == []
    (line,) = signs_of_hurt({"fpn": {"20": arms("helps"), "60": arms("hurts")}, "unet": {"all": arms("helps")}}, 1500)
    assert "fpn at 20 images, unet at all images" in line
    assert "group_pattern" in line


def test_results_of_several_versions_are_told():
    assert several_versions([{"isdm": "1.0"}, {"isdm": "1.0"}]) == several_versions([]) == []
    (line,) = several_versions([{"isdm": "1.0"}, {"isdm": "1.1"}, {}])
    assert "1.0, 1.1" in line


def scored(**by_seed: float | None) -> dict:
    seeds = {int(name.removeprefix("seed")): value for name, value in by_seed.items()}
    return {"repeats": list(seeds), "miou": {"by_seed": list(seeds.values())}}


class TestCheaperWays:
    def test_the_best_pasted_arm_is_named_with_its_blend(self):
        arms = {
            "real_good": scored(seed0=0.9, seed1=0.9),
            "copy_paste": scored(seed0=0.3, seed1=0.3),
            "poisson": scored(seed0=0.45, seed1=0.35),
            "place": scored(seed0=0.2, seed1=0.3),
        }
        (line,) = cheaper_ways({"unet": {"60": arms}})
        assert "unet at 60 images: Poisson-blended" in line
        assert "40.0 %" in line
        assert "25.0 %" in line
        assert "2 seeds" in line
        assert line.endswith("blend poisson")

    def test_placed_defects_that_are_better_need_no_line(self):
        arms = {"copy_paste": scored(seed0=0.3), "place": scored(seed0=0.31)}
        assert cheaper_ways({"unet": {"60": arms, "all": {"real": scored(seed0=0.5)}}}) == []

    def test_copies_are_compared_with_the_best_of_the_painted(self):
        arms = {"copy_paste": scored(seed0=0.4), "place": scored(seed0=0.3), "repaint": scored(seed0=0.35)}
        (line,) = cheaper_ways({"unet": {"60": arms}})
        assert "40.0 %" in line
        assert "painted-over ones 35.0 %" in line
        assert cheaper_ways({"unet": {"60": {**arms, "repaint": scored(seed0=0.41)}}}) == []
        assert cheaper_ways({"unet": {"60": {"poisson": scored(seed0=0.4), "repaint": scored(seed0=0.3)}}})

    def test_only_seeds_that_both_have_count(self):
        """Each arm may be further than the other."""
        arms = {"copy_paste": scored(seed1=0.4, seed2=0.1), "place": scored(seed0=0.9, seed1=0.3)}
        (line,) = cheaper_ways({"unet": {"20": arms}})
        assert "40.0 %" in line
        assert "1 seed)" in line
        assert cheaper_ways({"unet": {"20": {**arms, "place": scored(seed0=0.9)}}}) == []

    def test_models_that_have_learned_nothing_are_no_reason(self):
        arms = {"copy_paste": scored(seed0=0.0), "place": scored(seed0=0.0), "poisson": scored(seed0=None)}
        assert cheaper_ways({"unet": {"20": arms}}) == []


def test_painting_over_pasted_defects_is_named_where_it_is_better():
    arms = {"place": scored(seed0=0.3, seed1=0.3), "repaint": scored(seed0=0.4, seed2=0.1)}
    (line,) = better_painted({"unet": {"60": arms}})
    assert "40.0 %" in line
    assert "paste_noise" in line
    for other in (scored(seed0=0.3), scored(seed2=0.9), scored(seed0=None)):
        assert better_painted({"unet": {"60": {**arms, "repaint": other}}}) == []
    assert better_painted({"unet": {"60": {"place": scored(seed0=0.3)}}}) == []

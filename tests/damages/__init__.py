"""Some seventy ways to damage an ONNX file, and what verification has to make of each."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from damages import choosing as c
from damages import computing as n
from damages import quantising as q
from damages.surgery import PARTS, Parts, Patient

__all__ = ["DAMAGES", "PARTS", "Damage", "Parts", "Patient"]

FLOAT = ("fp32", "fp16")
PRECISIONS = (*FLOAT, "int8")
ALL = ("deit", "lvvit", "swin", "convnext", "evit")
CLASS_TOKEN = ("deit", "lvvit", "evit")
PREDICTED = ("deit", "lvvit", "swin", "convnext")
TWO_PATHS = ("swin", "convnext")
ATTENDING = ("deit", "lvvit", "swin", "evit")


@dataclass(frozen=True)
class Drowned:
    """Why a damage is less than rounding, and bounds of what it does, which it stays within.

    logits     length of the logits' error relative to theirs, the worst image's
    inversion  how far apart two tokens score at most that change places, of the largest score

    Sound models as small reach 0.13 and 0.22 in int8, 4.4e-3 and 1.1e-2 in fp16, see
    docs/verification.md.
    """

    why: str
    logits: float
    inversion: float


@dataclass(frozen=True)
class Damage:
    """One way to damage a file.

    damage      does it, in place
    shows       what a failure has to name: "stage" for the choice of tokens, "logits" for what
                comes out, "" where either may show it
    families, precisions  where it applies
    harmless    where it changes nothing that counts, and why; it has to pass there
    drowned     where it does less than the precision's own rounding, so that nobody can tell, and
                how little; it may pass there

    Both name places by "family precision", "precision", or "" for everywhere.
    """

    damage: Callable[[Patient], None]
    shows: str = ""
    families: tuple[str, ...] = ALL
    precisions: tuple[str, ...] = PRECISIONS
    harmless: Mapping[str, str] = field(default_factory=dict)
    drowned: Mapping[str, Drowned] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.damage.__name__

    def verdict(self, family: str, precision: str) -> Literal["caught", "harmless", "drowned"]:
        """What has to become of it there."""
        places = {f"{family} {precision}", precision, ""}
        if places & self.harmless.keys():
            return "harmless"
        return "drowned" if places & self.drowned.keys() else "caught"

    def drowned_in(self, family: str, precision: str) -> Drowned:
        """How little it does there."""
        places = (f"{family} {precision}", precision, "")
        return next(self.drowned[place] for place in places if place in self.drowned)

    def places(self) -> Iterator[tuple[str, str]]:
        """Families and precisions it is tried in: two families in the first precision, one in the
        others, in turn."""
        turn = zlib.crc32(self.name.encode()) % len(self.families)
        families = (self.families[turn:] + self.families[:turn])[:2]
        for place, precision in enumerate(self.precisions):
            for family in families if place == 0 else families[:1]:
                yield family, precision


ANY_ORDER = {"": "attention does not know an order, and the inverse permutation follows it"}
SCORES_SCALED = {"": "a ranking does not change when all scores are doubled"}
TIES = {"": "half precision's rounding only swaps tokens that score alike to a part in 2000"}
SAME_SUM = {"": "the same numbers in another order of rounding"}
DAMAGES = (
    Damage(c.take_the_smallest, "stage"),
    Damage(c.count_rows_from_one, "stage"),
    Damage(c.gather_one_row_further),
    Damage(c.gather_rows_of_the_first_image),
    Damage(c.gather_rows_of_the_next_image),
    Damage(c.gather_from_the_whole_grid, "", ("deit", "lvvit")),
    Damage(c.repeat_the_best_for_the_last, "stage"),
    Damage(c.take_the_next_best_for_the_last, "stage"),
    Damage(c.skip_the_best, "stage"),
    Damage(c.keep_in_another_order, harmless=ANY_ORDER),
    Damage(c.leave_the_choice_unsorted),
    Damage(c.forget_the_pin, "stage", CLASS_TOKEN),
    Damage(c.swap_predictors, "stage", PREDICTED),
    Damage(
        c.average_the_class_token_too,
        "stage",
        ("deit", "lvvit"),
        drowned={
            "fp16": Drowned("one token more in a mean of many, where fp16 rounds", 0.003, 0.007),
            "int8": Drowned("it ranks as before but for tokens near each other", 0.06, 0.15),
        },
    ),
    Damage(c.average_the_first_half, "stage", PREDICTED),
    Damage(c.average_nothing, "stage", PREDICTED),
    Damage(c.rank_with_relu, "stage", PREDICTED),
    Damage(c.double_the_scores, "", PREDICTED, harmless=SCORES_SCALED),
    Damage(c.add_noise_to_scores, "stage"),
    Damage(c.choose_by_chance, "stage"),
    Damage(c.kill_a_predictor, "stage", PREDICTED),
    Damage(c.score_in_half, harmless=TIES),
    Damage(c.read_the_wrong_row, "logits", CLASS_TOKEN),
    Damage(c.shift_positions, "", CLASS_TOKEN),
    Damage(c.put_back_in_score_order, "", TWO_PATHS),
    Damage(c.put_back_to_front, "", TWO_PATHS),
    Damage(c.put_back_one_row_further, "", TWO_PATHS),
    Damage(c.swap_paths, "", TWO_PATHS),
    Damage(c.zero_the_fast_path, "", TWO_PATHS),
    Damage(c.fuse_all_tokens, "", ("evit",)),
    Damage(
        n.weigh_two_per_cent_more,
        drowned={"int8": Drowned("one layer's part of the logits", logits=0.065, inversion=0.15)},
    ),
    Damage(
        n.weigh_the_head_two_per_cent_more,
        "logits",
        drowned={
            "int8": Drowned("0.02 of the logits, as int8's own error at its least", 0.06, 0.09)
        },
    ),
    Damage(n.weigh_every_narrow_layer_five_per_cent_more),
    Damage(n.zero_a_third_of_a_projection),
    Damage(n.give_infinity, "logits"),
    Damage(n.transpose_a_square_weight),
    Damage(n.zero_a_row),
    Damage(n.spoil_one_weight, "", precisions=FLOAT),
    Damage(n.overflow_one_weight, "", precisions=FLOAT),
    Damage(n.drop_a_bias),
    Damage(n.add_a_bias_twice),
    Damage(n.scale_a_layer_twice, families=("convnext",)),
    Damage(n.forget_to_halve_a_residual, families=("lvvit",)),
    Damage(n.forget_a_residual),
    Damage(n.attend_without_scale, families=ATTENDING),
    Damage(n.attend_with_half_the_scale, families=ATTENDING),
    Damage(n.misscale_one_head, families=ATTENDING),
    Damage(n.swap_query_and_key, families=ATTENDING),
    Damage(n.normalise_attention_by_keys, families=ATTENDING),
    Damage(
        n.normalise_with_large_epsilon,
        drowned={
            "convnext fp16": Drowned("variances are near one", logits=0.0025, inversion=0.007),
        },
    ),
    Damage(n.normalise_step_by_step, harmless=SAME_SUM),
    Damage(n.swap_scale_and_offset),
    Damage(n.forget_an_offset),
    Damage(
        n.round_gelu_by_tanh,
        drowned={
            "evit fp32": Drowned("the two GELUs differ by 5e-4 at most", 1.3e-4, 1e-4),
            "fp16": Drowned("they differ by 5e-4 at most, as fp16 rounds near one", 0.0025, 0.004),
        },
    ),
    Damage(n.use_relu),
    Damage(n.average_the_auxiliary_head, "logits", ("lvvit",)),
    Damage(n.weigh_the_auxiliary_head_fully, "logits", ("lvvit",)),
    Damage(
        n.let_the_auxiliary_head_see_the_class_token,
        "logits",
        ("lvvit",),
    ),
    Damage(n.forget_the_shift, families=("swin",)),
    Damage(n.forget_the_shift_mask, families=("swin",)),
    Damage(n.forget_relative_positions, families=("swin",)),
    Damage(n.convolve_one_pixel_earlier, families=("deit", "lvvit", "evit", "convnext")),
    Damage(n.normalise_images_twice),
    Damage(n.take_blue_for_red),
    Damage(n.roll_the_classes, "logits"),
    Damage(n.give_probabilities, "logits"),
    Damage(n.lose_the_last_class, "logits"),
    Damage(n.answer_for_the_next_image, "logits"),
    Damage(n.pass_through_a_large_value, "", precisions=("fp16",)),
    Damage(q.restore_with_double_scale, precisions=("int8",)),
    Damage(q.double_a_scale, "", precisions=("int8",)),
    Damage(q.double_every_scale, "", precisions=("int8",)),
    Damage(q.quarter_every_scale, precisions=("int8",)),
    Damage(q.shift_a_zero_point, "", precisions=("int8",)),
    Damage(q.shift_every_zero_point, "", precisions=("int8",)),
    Damage(q.scale_weights_by_a_tenth, precisions=("int8",)),
    Damage(q.shuffle_channel_scales, precisions=("int8",)),
    Damage(q.share_one_scale, precisions=("int8",)),
    Damage(q.spoil_a_scale, "", precisions=("int8",)),
    Damage(q.wrap_large_weights, precisions=("int8",)),
)
"""Every damage."""

"""The one judge: whether two sets of answers are the same but for rounding and ties.

`answers` compares all of it, `numbers` measures outputs, `selection` judges what was kept,
`tolerances` say how much is accepted. All of it is numpy on plain answers, whoever gave them: the
proof of the rewrite, `verify`, `optimize`, calibration and sweeps ask here. A precision says its
tolerances without numpy, so nothing is imported here.
"""

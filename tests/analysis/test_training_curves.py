"""Curves of one training: what is drawn, where the axis is cut, the page and the picture."""

import struct

import pytest

from analysis import write_training, write_training_picture
from analysis.figures.training_curves import loss_figure, ppl_figure, rate_figure, tallest_ppl, training_curves_data
from analysis.training_page import said


def progress(**changed):
    losses = [7.5, 4.0, 3.5, 3.6]
    ppls = [1808.04, 54.6, 33.12, 36.6]
    own = {
        "model_name": "new_llm_toy", "current_epoch": 4, "total_epochs": 6, "finished": None, "stopped_early": False,
        "train_losses": [8.0, 4.1, 3.4, 3.3], "val_losses": losses, "train_ppls": [None, 60.3, 30.0, 27.1],
        "val_ppls": ppls, "val_accs": [0.1, 0.2, 0.3, 0.29], "lrs": [1e-3] * 4, "clips": [0.5, 0.5, 0.5, 1.0],
        "seconds": [30.0] * 4, "best_epoch": 3, "best_val_loss": 3.5, "best_val_ppl": 33.12, "lr_stages": [],
        "config": {
            "parameters": 2739432, "corpus": "toy", "batch_size": 512, "learning_rate": 4e-4, "precision": "bf16",
            "dropout": 0.0,
        },
    }  # fmt: skip
    return own | changed


def test_the_axis_of_perplexity_is_cut_by_the_originals_rule():
    assert tallest_ppl([1000.0, 50.0]) is None
    assert tallest_ppl([None]) is None
    # The 95th percentile of 20 values is the 19.05th: 100 and a twentieth of the way to 5,000.
    assert tallest_ppl([*range(81, 100), 5000.0]) == pytest.approx(1.5 * (99 + 0.05 * (5000 - 99)))
    assert tallest_ppl([4000.0] * 19 + [4001.0]) == 4001.0


def test_loss_and_perplexity_have_two_lines_told_apart_by_their_marks():
    data = training_curves_data(progress(lr_stages=[{"after": 2}]))
    for figure, values in ((loss_figure(data), data.val_losses), (ppl_figure(data), data.val_ppls)):
        train, validation, best = figure.data
        assert (train.marker.symbol, validation.marker.symbol) == ("circle", "square")
        assert list(validation.x) == [1, 2, 3, 4]
        assert list(validation.y) == values
        assert (best.x[0], best.y[0]) == (3, values[2])
        assert [line.x0 for line in figure.layout.shapes] == [2.5]
    assert ppl_figure(data).layout.yaxis.range == (0, data.tallest)
    assert [trace.yaxis for trace in rate_figure(data).data] == [None, "y2"]
    assert len(rate_figure(training_curves_data(progress(clips=[None] * 4))).data) == 1


def test_the_page_says_how_far_how_good_and_why_it_ended():
    assert said(progress()) == [
        "The best epoch is 3: validation loss 3.5000, perplexity 33.12, accuracy 30.0%.",
        "So far 4 of 6 epochs are trained, in 2 min 0 s, 30 s an epoch.",
    ]
    assert "after epoch 4 of 6, 1 after the best" in said(progress(stopped_early=True, finished="patience"))[1]
    last = progress(best_epoch=4, val_losses=[7.5, 4.0, 3.6, 3.5], finished="epochs", total_epochs=4)
    assert said(last)[1:] == [
        "All 4 epochs were trained in 2 min 0 s, 30 s an epoch.",
        "It was still improving at the end: more epochs may pay.",
    ]
    fallen = said(last | {"lrs": [1e-3, 8e-4, 3e-4, 1e-6]})[-1]
    assert fallen.endswith("0.1 % of the highest: more epochs may pay with a new course of it (--new-schedule).")
    stage = {"after": 2, "epochs": 4, "lr": 1e-4, "lr_schedule": {"name": "cosine"}}
    assert said(progress(lr_stages=[stage]))[-1] == (
        "From epoch 3 on the learning rate follows a new course, cosine from 0.0001, laid out over 4 epochs."
    )


def test_a_page_of_its_own_and_the_originals_picture(tmp_path):
    page = write_training(progress(), tmp_path / "new_llm_toy_training_curves.html")
    text = page.read_text()
    assert text.count('class="figure"') == 4
    assert "2,739,432 parameters, toy, batch size 512, learning rate 0.0004, bf16" in text
    pytest.importorskip("matplotlib")
    picture = write_training_picture(progress(), page.with_suffix(".png")).read_bytes()
    # 14 by 5 inches at 150 dots per inch.
    assert struct.unpack(">II", picture[16:24]) == (2100, 750)
    assert {path.name for path in tmp_path.iterdir()} == {page.name, page.with_suffix(".png").name}

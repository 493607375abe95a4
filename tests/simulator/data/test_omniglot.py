"""Reading Omniglot's archives."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simulator.data import DATA_SETS, DataError, content_digest, omniglot

from .archives import omniglot_archives, png, shared, some_characters


def test_omniglots_drawings_are_read_in_the_order_of_their_names_as_ink(tmp_path: Path) -> None:
    names, images = some_characters()
    arrays = omniglot.read105(omniglot_archives(tmp_path, names, images))
    np.testing.assert_array_equal(omniglot.unpack(arrays["images"], 105), images)


def test_omniglot_at_28_takes_the_nearest_pixel_as_pillow_does(tmp_path: Path) -> None:
    names, images = some_characters()
    arrays = omniglot.read28(omniglot_archives(tmp_path, names, images))
    for small, image in zip(omniglot.unpack(arrays["images"], 28), images, strict=True):
        resized = Image.fromarray(image == 0).resize((28, 28), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(small, ~np.asarray(resized))


def test_omniglot_says_what_each_drawing_is(tmp_path: Path) -> None:
    names, images = some_characters()
    arrays = omniglot.read28(omniglot_archives(tmp_path, names, images))
    assert arrays["alphabet_names"].tolist() == ["Balinese", "Greek", "Angelic"]
    assert arrays["char_names"].tolist() == [*names["images_background"], *names["images_evaluation"]]
    assert arrays["char_alphabet"].tolist() == [0, 0, 1, 2]
    assert arrays["char_part"].tolist() == [0, 0, 0, 1]
    assert arrays["char_id"].tolist() == [i // 20 for i in range(80)]
    assert arrays["drawer"].tolist() == [i % 20 + 1 for i in range(80)]


@pytest.mark.timeout(600)
def test_the_whole_of_omniglot_gives_the_arrays_of_the_projects_file(tmp_path: Path) -> None:
    known, original = shared("omniglot28"), omniglot.unpack(shared("omniglot105")["images"], 105)
    names = known["char_names"].astype(str)
    roots = {
        root: names[known["char_part"] == part].tolist()
        for part, root in enumerate(("images_background", "images_evaluation"))
    }
    paths = omniglot_archives(tmp_path, roots, original)
    assert content_digest(omniglot.read28(paths)) == DATA_SETS["omniglot28"].content


def test_a_character_that_lacks_a_drawing_is_an_error(tmp_path: Path) -> None:
    names, images = some_characters()
    paths = omniglot_archives(tmp_path, names, images)
    with zipfile.ZipFile(paths[1], "a") as archive:
        archive.writestr("images_evaluation/Angelic/character02/0009_01.png", png(images[0]))
    with pytest.raises(DataError, match="Angelic/character02 has no drawing by each of the 20 drawers"):
        omniglot.read28(paths)

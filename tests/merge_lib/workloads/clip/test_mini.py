"""The mini-CLIP: its captions, its tokens, its training."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPModel

from merge_lib.workloads.clip.mini import initial_model, lesson_of, make_mini, true_of
from merge_lib.workloads.clip.mini_config import MiniParams
from merge_lib.workloads.clip.scenes import all_captions, captions_of, family_of, name_of, scenes_of, style_of
from merge_lib.workloads.clip.tokens import make_tokenizer
from merge_lib.workloads.vision.glyphs import CLASSES, FONTS


@pytest.mark.parametrize(
    ("font", "style", "family"),
    [
        ("DejaVuSans-BoldOblique", "bold italic", "sans"),
        ("DejaVuSansMono", "upright", "typewriter"),
        ("STIXGeneralItalic", "italic", "serif"),
        ("cmb10", "bold", "serif"),
        ("cmss10", "upright", "sans"),
        ("cmtt10", "upright", "typewriter"),
    ],
)
def test_fonts_have_styles_and_families(font, style, family):
    assert font in FONTS
    assert (style_of(font), family_of(font)) == (style, family)


def test_characters_have_names():
    assert [name_of(c) for c in "3gG"] == ["digit three", "small letter g", "capital letter g"]


def test_a_caption_is_true_of_the_pictures_that_have_all_it_tells():
    fonts = np.array([FONTS.index("DejaVuSans"), FONTS.index("DejaVuSans-Bold"), FONTS.index("cmr10")])
    scenes = scenes_of(fonts, np.array([CLASSES.index(c) for c in "gGg"]))
    texts, told = captions_of(np.repeat(scenes, 40, axis=0), np.random.default_rng(0))
    of = dict(zip(texts, told, strict=True))
    chosen = ["the small letter g", "the letter g in bold", "letter g", "a small letter in upright serif"]
    is_true = true_of(torch.from_numpy(np.stack([of[text] for text in chosen])), torch.from_numpy(scenes))
    assert is_true.T.int().tolist() == [[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1]]


def test_every_word_of_a_caption_is_one_token():
    tokenizer = make_tokenizer(all_captions(), length=16)
    for word in sorted({word for text in all_captions() for word in text.split()}):
        assert len(tokenizer(word).input_ids) == 3  # with begin and end
    assert tokenizer.decode(tokenizer("Łódź").input_ids, skip_special_tokens=True).strip() == "łódź"


def test_a_mini_clip_learns_and_loads_offline(tmp_path):
    sizes = {"image_size": 8, "patch_size": 4, "width": 16, "depth": 1, "text_depth": 1, "heads": 2}
    wanted = MiniParams(count=248, sizes=sizes, epochs=2, batch_size=31)
    make_mini(tmp_path, wanted)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    lesson = lesson_of(wanted, tokenizer)
    batch = lesson.batch(torch.arange(62), torch.Generator().manual_seed(0))
    models = (initial_model(wanted.sizes, tokenizer, wanted.seed), CLIPModel.from_pretrained(tmp_path))
    with torch.no_grad():
        before, after = (float(lesson.loss(model.eval(), batch)) for model in models)
    assert after < before - 0.1

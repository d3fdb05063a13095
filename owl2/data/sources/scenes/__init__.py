"""A generated world of coloured things and written signs: pictures, and questions whose answers are exact.

A scene is drawn from (seed, split, index) alone, so any worker makes any scene in any order, and nothing is downloaded.

    world          words, levels of difficulty, scenes, combinations that training never shows
    programs       questions as programs over a scene, after CLEVR (Johnson et al., CVPR 2017)
    templates      questions by template, their answers balanced
    descriptions   captions, and how one thing of a scene is named
    drawing        a scene as an image
    facts          what is true of the world without a picture
    records        the five kinds of training data
    benchmark      the test splits of `owl2 evaluate`
    export         the same as files

docs/understand/scenes.md describes it.
"""

"""Mosaics: where the pixels of a sample come from, and in how few pieces.

In reading order: `mosaic` (the sources of every pixel, step by step) and its `files`; `tiles` (the
pieces of a source map), `pieces` (the fewest that explain any image, counted by `coverage`),
`consistency` (pixels that are those of their nearest patch), `toy` (how many images there are) and
`limbs` (trousers with three legs); `study` (all of it, of machines, a network and real images) with
its `findings`, `limb_study` and `resumable_pieces`.
"""

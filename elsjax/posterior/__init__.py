"""The posterior over training patches: entries, logits, and what is asked of the weights.

In reading order: `dictionaries` (which pixels are estimated from which patches), `patches` (both as
arrays), `answers` (what may be asked), `softmax` and `ranking` (what is accumulated for it),
`methods` (how logits are had), `training_set`, `scheme` (a method for each part, and blocks),
`evaluation` (the only way in), `batches` (mixed times, windows and labels), `index` and `lookup`
(whole data sets, up to a tolerance).
"""

"""`elsjax study`: experiments with a table and figures of their own, each a command."""

from typing import Annotated

import tyro

from elsjax.cli.study_attention import StudyAttention
from elsjax.cli.study_denoising import StudyDenoising
from elsjax.cli.study_mosaics import StudyMosaics
from elsjax.cli.study_receptive_field import StudyReceptiveField
from elsjax.cli.study_switch import StudySwitch
from elsjax.cli.study_training import StudyTraining

Study = (
    Annotated[StudyAttention, tyro.conf.subcommand("attention")]
    | Annotated[StudyDenoising, tyro.conf.subcommand("denoising")]
    | Annotated[StudyMosaics, tyro.conf.subcommand("mosaics")]
    | Annotated[StudyReceptiveField, tyro.conf.subcommand("receptive-field")]
    | Annotated[StudySwitch, tyro.conf.subcommand("switch")]
    | Annotated[StudyTraining, tyro.conf.subcommand("training")]
)

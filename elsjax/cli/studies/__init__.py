"""`elsjax study`: experiments with a table and figures of their own, each a command."""

from typing import Annotated

import tyro

from elsjax.cli.studies.attention import StudyAttention
from elsjax.cli.studies.denoising import StudyDenoising
from elsjax.cli.studies.mosaics import StudyMosaics
from elsjax.cli.studies.receptive_field import StudyReceptiveField
from elsjax.cli.studies.switch import StudySwitch
from elsjax.cli.studies.training import StudyTraining

Study = (
    Annotated[StudyAttention, tyro.conf.subcommand("attention")]
    | Annotated[StudyDenoising, tyro.conf.subcommand("denoising")]
    | Annotated[StudyMosaics, tyro.conf.subcommand("mosaics")]
    | Annotated[StudyReceptiveField, tyro.conf.subcommand("receptive-field")]
    | Annotated[StudySwitch, tyro.conf.subcommand("switch")]
    | Annotated[StudyTraining, tyro.conf.subcommand("training")]
)

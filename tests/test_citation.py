import ast
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from flax import nnx
from pybtex.database import parse_file, parse_string

import elsjax
from elsjax import nn
from elsjax.data.datasets import named_datasets
from elsjax.process.sampling import SOLVERS
from elsjax.references import bibliography
from elsjax.training.config import TrainingConfig

PACKAGE = Path(elsjax.__file__).parent
ROOT = PACKAGE.parent
IMAGES = np.zeros((4, 4, 4, 1), np.uint8)
SHAPE = IMAGES.shape[1:]
ALWAYS = ["elsjax", "kamb2025"]


def function_denoiser(prediction, schedule=None):
    return elsjax.FunctionDenoiser(
        lambda x, t, label: x,
        SHAPE,
        prediction=prediction,
        schedule=elsjax.ExponentialSchedule() if schedule is None else schedule,
    )


def machine():
    return elsjax.ScoreMachine("is", IMAGES, schedule=elsjax.LinearBetaSchedule())


def comparison(solver):
    noise = np.zeros((2, *SHAPE))
    options = {"num_steps": 2, "network_steps": (2,), "solver": solver, "key": jax.random.key(0)}
    return elsjax.compare(machine(), {"is": machine()}, noise, **options)


def keys(*used):
    return re.findall(r"^@\w+\{(\w+),$", elsjax.citation(*used), re.MULTILINE)


def purpose(key, *used):
    """The line above an entry."""
    return re.search(rf"^% for (.*)\n@\w+\{{{key},$", elsjax.citation(*used), re.MULTILINE)[1]


def test_without_arguments_the_library_and_the_paper_are_cited(capsys):
    found = elsjax.citation()
    assert keys() == ALWAYS
    assert found.startswith("% for the software\n@misc{elsjax,\n")
    assert isinstance(found, str)
    assert repr(found) == found
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        (elsjax.CosineSchedule(), ["nichol2021"]),
        (elsjax.LinearBetaSchedule(), ["ho2020"]),
        (elsjax.ExponentialSchedule(), []),
        ("ddim", ["song2021ddim"]),
        ("heun", ["karras2022"]),
        ("ancestral", ["ho2020", "elalaoui2022", "li2020"]),
        ("mnist5k", ["lecun1998"]),
        ("mnist", ["lecun1998"]),
        ("fashion_mnist", ["xiao2017"]),
        ("cifar10", ["krizhevsky2009"]),
        ("celeb_a", ["liu2015"]),
        (elsjax.Dataset("cifar10", "train", IMAGES, None, None), ["krizhevsky2009"]),
        (elsjax.Dataset("my_photos/", "train", IMAGES, None, None), []),
        (TrainingConfig(), []),
        (TrainingConfig(loss_weighting="min_snr"), ["hang2023"]),
        (function_denoiser("noise"), ["ho2020"]),
        (function_denoiser("x0"), []),
        (function_denoiser("velocity"), ["salimans2022"]),
        (function_denoiser("score"), ["song2021sde"]),
        (function_denoiser("edm"), ["karras2022"]),
        (function_denoiser("edm", elsjax.CosineSchedule()), ["karras2022", "nichol2021"]),
        (elsjax.memorized(IMAGES, IMAGES), ["gu2023"]),
        (elsjax.GoldenSubsetDenoiser(IMAGES), ["shang2026", "nichol2021"]),
        (elsjax.SmoothedDenoiser(machine(), bandwidth=1, draws=1), ["scarvelis2023", "ho2020"]),
        (
            elsjax.ComposedDenoiser(machine(), [(machine(), None)], [2]),
            ["bradley2025", "ho2022", "ho2020"],
        ),
    ],
)
def test_what_was_used_is_cited(used, expected):
    assert keys(used) == ALWAYS + expected


def test_a_machine_brings_its_schedule_whatever_it_is_wrapped_in():
    exact = machine()
    indexed = elsjax.IndexedMachine(exact, 0.03, {})
    on_devices = function_denoiser("edm").with_mesh(elsjax.make_mesh(2))
    assert keys(exact) == keys(indexed) == [*ALWAYS, "ho2020"]
    assert keys(on_devices) == [*ALWAYS, "karras2022"]
    assert keys(elsjax.WienerDenoiser(IMAGES)) == [*ALWAYS, "wiener1949", "nichol2021"]
    local = elsjax.WienerDenoiser(IMAGES, kind="ls", window=3)
    assert purpose("kamb2025", local) == "the theory of score machines; what a pixel sees"
    pspc, locality = elsjax.PSPCDenoiser(IMAGES, window=2), elsjax.PCALocalityDenoiser(IMAGES)
    assert keys(pspc) == [*ALWAYS, "niedoba2025", "nichol2021"]
    assert keys(locality) == [*ALWAYS, "lukoianov2025", "nichol2021"]


def test_a_network_brings_architecture_prediction_and_schedule():
    small = {"rngs": nnx.Rngs(0), "schedule": elsjax.ExponentialSchedule(), "embedding_width": 8}
    resnet = nn.ResNet(SHAPE, width=8, num_layers=1, rngs=nnx.Rngs(0), prediction="x0")
    unet = nn.UNet(SHAPE, widths=(4, 8), prediction="velocity", **small)
    attention = nn.AttentionUNet(SHAPE, widths=(4, 8), **small)
    assert keys(resnet) == [*ALWAYS, "nichol2021"]
    assert purpose("kamb2025", resnet) == "the theory of score machines; the ResNet"
    assert keys(unet) == [*ALWAYS, "salimans2022"]
    assert purpose("kamb2025", unet) == "the theory of score machines; the UNet"
    assert keys(attention) == [*ALWAYS, "ho2020", "salimans2022"]


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_comparison_brings_its_solver(solver):
    assert keys(comparison(solver)) == keys(solver)
    assert "the comparison of machines" in purpose("kamb2025", comparison(solver))


def test_denoisers_of_ones_own_cite_what_they_inherit():
    class Own(elsjax.Denoiser):
        schedule = elsjax.LinearBetaSchedule()
        image_shape = SHAPE

        def posterior_mean(self, x, t, label):
            return x

    class Function(elsjax.FunctionDenoiser):
        pass

    assert keys(Own()) == [*ALWAYS, "ho2020"]
    function = Function(lambda x, t, label: x, SHAPE, prediction="velocity")
    assert keys(function) == [*ALWAYS, "salimans2022", "nichol2021"]


def test_each_entry_comes_once_with_all_it_is_cited_for_in_the_order_of_use():
    used = ("mnist", elsjax.LinearBetaSchedule(), "ancestral", "mnist5k", machine())
    assert keys(*used) == [*ALWAYS, "lecun1998", "ho2020", "elalaoui2022", "li2020"]
    assert purpose("lecun1998", *used) == "MNIST"
    assert purpose("ho2020", *used) == "the linear schedule of beta; ancestral sampling"
    assert keys("ancestral", "mnist")[2:] == ["ho2020", "elalaoui2022", "li2020", "lecun1998"]


@pytest.mark.parametrize(
    ("used", "message"),
    [
        (("mnist", "euler"), r"used\[1\]='euler' is not known.*ddim.*mnist5k.*celeb_a"),
        (("",), r"used\[0\]='' is not known"),
        (("MNIST",), r"used\[0\]='MNIST' is not known"),
        ((None,), r"used\[0\]=None must be a denoiser.*or the name of a solver or a data set"),
        ((["ddim"],), r"used\[0\]=\['ddim'\] must be a denoiser"),
        ((elsjax.CosineSchedule,), r"used\[0\]=<class .*CosineSchedule'> must be a denoiser"),
        (("ddim", 3), r"used\[1\]=3 must be"),
    ],
)
def test_what_cannot_be_cited_is_refused(used, message):
    with pytest.raises(ValueError, match=message):
        elsjax.citation(*used)


def test_the_bibliography_is_bibtex():
    parsed = parse_file(PACKAGE / "references.bib").entries
    assert list(parsed) == list(bibliography())
    for key, entry in parsed.items():
        assert entry.persons["author"], key
        assert entry.fields["title"], key
        assert re.fullmatch(r"\d{4}", entry.fields["year"]), key
    everything = [*SOLVERS, *named_datasets(), machine(), function_denoiser("velocity")]
    cited = parse_string(elsjax.citation(*everything), "bibtex").entries
    assert len(cited) == 12
    assert all(cited[key] == parsed[key] for key in cited)


def test_all_that_is_cited_is_in_the_bibliography():
    called = [
        node.args[0].value
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Reference"
    ]
    assert len(called) >= 20
    assert set(called) <= set(bibliography())


NAMED = re.compile(
    r"(?<![\w-])([A-Z][a-z][\w-]*)(?: & [A-Z]\w+|,? et\s+al\.)?,?\s+\(?((?:19|20)\d\d)\b"
)


def test_every_source_that_the_code_names_is_in_the_bibliography():
    known = {
        (person.last_names[-1], entry.fields["year"])
        for entry in parse_file(PACKAGE / "references.bib").entries.values()
        for person in entry.persons["author"]
    }
    named = {
        found
        for path in PACKAGE.rglob("*.py")
        for found in NAMED.findall(path.read_text(encoding="utf-8"))
    }
    assert ("Kamb", "2025") in named
    assert named <= known


def test_citation_cff_says_what_the_library_and_the_bibliography_say():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cff["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "version", "date-released"} <= cff.keys()
    entries = parse_file(PACKAGE / "references.bib").entries
    library, paper = (entries[key].fields for key in ALWAYS)
    assert cff["version"] == library["version"] == elsjax.__version__
    assert library["note"] == f"Version {elsjax.__version__}"
    assert cff["title"] == library["title"].replace("{", "").replace("}", "")
    assert cff["date-released"][:4] == library["year"]
    (reference,) = cff["references"]
    assert reference["title"] == paper["title"]
    assert str(reference["year"]) == paper["year"]
    assert str(reference["volume"]) == paper["volume"]
    assert reference["collection-title"] == paper["booktitle"]
    assert reference["identifiers"][0]["value"] == f"arXiv:{paper['eprint']}"
    names = [f"{one['family-names']}, {one['given-names']}" for one in reference["authors"]]
    assert names == [str(person) for person in entries["kamb2025"].persons["author"]]

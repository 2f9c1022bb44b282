"""Puts the results of a bench into docs/failover/measured.json, and draws a picture for each fault.

    python -m dev.bench.report build/bench/results.json

What was not measured again keeps its figures: a bench of some faults, or of one configuration, replaces only those. The
pictures that docs/failover.md shows go to docs/failover/, if all their figures are of this bench; all others go to
build/failover/.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from dev.bench.configurations import CONFIGURATIONS
from dev.bench.faults import FAULTS
from dev.bench.figures import Lane, save, style, timeline
from dev.bench.results import Results, Run
from dev.bench.summary import (
    Headline,
    grouped,
    headline,
    median_run,
    share,
    summaries,
    title_of_configuration,
    title_of_fault,
    why_of_fault,
)
from dev.bench.tables import PICTURED, capital
from operate.measured import FILE, Bench, Measurements, Summary


def read(file: Path) -> Results:
    """The results of a whole bench; raises BadParameter if the file has none."""
    try:
        results = Results.read(file)
    except ValidationError as error:
        raise typer.BadParameter(f"{file} is not a results.json of this bench; run `make bench`: {error}") from error
    if results.quick:
        raise typer.BadParameter(
            f"{file} is of a quick bench, which does not wait for silent clients; run `make bench`"
        )
    return results


def bench(results: Results) -> dict[str, Bench]:
    """The bench and its key."""
    it = results.machine
    return {
        it.date: Bench(
            runs=len(results.runs),
            minutes=round(it.seconds / 60),
            cores=it.cores,
            memory_gib=it.memory_gib,
            kernel=it.kernel,
            keepalived=it.keepalived,
            haproxy=it.haproxy,
            load_before=round(it.load_before, 1),
            load_after=round(it.load_after, 1),
        )
    }


def merged(measured: Measurements, results: Results) -> Measurements:
    """With the figures of these results where they are newer; in the order of the bench, and without former faults."""
    of_fault = summaries(results, results.machine.date).values()
    every = sorted(chain(measured.faults, *of_fault), key=lambda it: it.bench)
    newest = {(it.fault, it.configuration): it for it in every}
    places = ((fault, configuration) for fault in FAULTS for configuration in CONFIGURATIONS)
    faults = tuple(newest[place] for place in places if place in newest)
    return measured.model_copy(update={"benches": measured.benches | bench(results), "faults": faults})


def draw(results: Results, measured: Measurements, shown: Path, others: Path) -> None:
    """A picture for each fault: `shown` is the folder for those that the document shows, next to these figures."""
    for folder in (shown, others):
        folder.mkdir(parents=True, exist_ok=True)
    by_fault = summaries(results)
    with style():
        for fault, configurations in grouped(results).items():
            number = headline(fault)
            title, why = capital(title_of_fault(fault)), why_of_fault(fault).replace("`", "")
            quoted = {
                it.configuration for it in measured.faults if (it.fault, it.bench) == (fault, results.machine.date)
            }
            is_shown = fault in PICTURED and quoted >= CONFIGURATIONS.keys()
            figure = timeline(title, why, number.name, [*_lanes(number, by_fault[fault], configurations)])
            save(figure, (shown if is_shown else others) / f"{fault}.svg")


def _lanes(number: Headline, of_fault: Sequence[Summary], runs: Mapping[str, Sequence[Run]]) -> Iterable[Lane]:
    best = number.best(of_fault)
    for summary in of_fault:
        yield Lane(
            title=title_of_configuration(summary.configuration),
            run=median_run(runs[summary.configuration]),
            note=number.text(summary),
            small_note=f"{share(summary.cut)} connections cut",
            best=summary.configuration in best,
        )


def main(
    file: Annotated[Path, typer.Argument(help="results.json of `make bench`", exists=True, dir_okay=False)],
    measured: Annotated[Path, typer.Option(help="the file of all figures", exists=True, dir_okay=False)] = FILE,
    other_pictures: Annotated[Path, typer.Option(help="folder for all other pictures")] = Path("build/failover"),
) -> None:
    """Put the results of `make bench` into measured.json, and draw a picture for each fault."""
    results = read(file)
    figures = merged(Measurements.read(measured), results)
    draw(results, figures, measured.parent, other_pictures)
    figures.write(measured)


if __name__ == "__main__":
    typer.run(main)

"""An import-linter contract that reads as the rule is written: a table of who may import whom."""

from __future__ import annotations

from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class Table(Contract):
    """Each row is ``package -> package, package.module, ...``; what has no row may not exist.

    A package may always import itself. An entry allows the module it names and
    everything below it.
    """

    rows: Any = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        root = self.session_options["root_packages"][0]
        allowed = dict(_row(row) for row in self.rows)
        packages = {module.split(".")[1] for module in graph.modules if module.count(".")}
        problems = [f"{package}: has no row in the table" for package in sorted(packages - allowed.keys())]
        for importer in sorted(graph.modules - {root}):
            package = importer.split(".")[1]
            for imported in sorted(graph.find_modules_directly_imported_by(importer)):
                name = imported.removeprefix(f"{root}.")
                if not any(_within(name, entry) for entry in (package, *allowed.get(package, ()))):
                    problems.append(f"{importer} imports {imported}")
        return ContractCheck(kept=not problems, metadata={"problems": problems})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for problem in check.metadata["problems"]:
            output.print_error(problem)


def _row(row: str) -> tuple[str, tuple[str, ...]]:
    package, _, entries = row.partition("->")
    return package.strip(), tuple(entry.strip() for entry in entries.split(",") if entry.strip())


def _within(name: str, entry: str) -> bool:
    return name == entry or name.startswith(f"{entry}.")

"""The twenty claims of the base paper (arXiv 2508.16546), each with its rule.

A claim is tested by a function of the study's tables. None is bound to a
verdict: `not tested` says what the study lacks.
"""
from rlft.report import (
    claims_of_rl,
    claims_of_sft,
    claims_of_weights,
    statistics,
)
from rlft.report.tables import Tables

CLAIMS = tuple(sorted(
    (*claims_of_sft.CLAIMS, *claims_of_rl.CLAIMS, *claims_of_weights.CLAIMS),
    key=lambda claim: claim.number))


def table(tables: Tables) -> list[dict]:
  """One row per claim: number, claim, accept_rule, measured, ....

  Where the study trained with another objective than SFT, what was measured
  is said of that one.
  """
  rows, name = [], statistics.method(tables)
  for claim in CLAIMS:
    found = claim.test(tables)
    found = found._replace(why=found.why.replace('SFT', name))
    rows.append({'number': claim.number, 'claim': claim.claim,
                 'accept_rule': claim.accept} | found._asdict())
  return rows
